"""The view of runs that may be compared, and what reads it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.store.connection import write_connection, writing
from harness.store.database import Database
from leaderboards import build
from leaderboards.build import small
from leaderboards.summary import run_summary

AddRun = Callable[..., str]
LEFT = (340, 280, 270, 268, 262)


def rows(results: Path) -> dict[str, tuple[str, str, bool]]:
    """Key, scale and partial of each run by its title; every run has one row here."""
    sql = "SELECT title, like_key, scale, partial FROM like_runs"
    frame = Database(results).query(sql)
    assert frame["title"].is_unique
    return {title: tuple(row) for title, *row in frame.itertuples(index=False)}


def test_a_part_of_the_data_is_of_small_scale_and_marked(add_run: AddRun, tmp_path: Path) -> None:
    add_run("Small", LEFT)
    add_run("Unknown", LEFT, scale=None)
    add_run("Part", LEFT, scale="paper", partial=True)
    add_run("Paper", LEFT, scale="paper")
    found = rows(tmp_path)
    assert found["Small"] == found["Unknown"]
    assert found["Part"] == (*found["Small"][:2], True)
    assert found["Paper"][1:] == ("paper", False)
    assert found["Paper"][0] != found["Small"][0]


def test_without_attacks_the_threat_model_decides_nothing(add_run: AddRun, tmp_path: Path) -> None:
    add_run("A", (340,), attacks=())
    add_run("B", (341,), attacks=(), protocol={"eps": 0.5, "norm": "L2"})
    add_run("C", (341,), attacks=(), protocol={"precision": "bf16"})
    found = rows(tmp_path)
    assert found["A"] == found["B"] != found["C"]


def test_the_newest_evaluation_of_each_protocol_counts(add_run: AddRun, tmp_path: Path) -> None:
    add_run("A", LEFT)
    add_run("A", LEFT, evaluation_id="later")
    add_run("A", LEFT, evaluation_id="another", protocol={"eps": 0.1})
    found = Database(tmp_path).query("SELECT evaluation_id FROM like_runs ORDER BY ALL")
    assert found["evaluation_id"].tolist() == ["another", "later"]


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_database_of_any_age_answers(add_run: AddRun, tmp_path: Path, version: str) -> None:
    run_id = add_run("IKL", LEFT)
    path = Database(tmp_path).path
    with writing(path, 5), write_connection(path, 5) as connection:
        if version == "1":
            for table in ("runs", "evaluations"):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN record")
            for column in ("badge", "source"):
                connection.execute(f"ALTER TABLE reported DROP COLUMN {column}")
        connection.execute(f"UPDATE meta SET value = '{version}' WHERE name = 'schema_version'")
        views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
        assert views.fetchall() == []
    assert rows(tmp_path).keys() == {"IKL"}
    assert run_id in {run for row in small(tmp_path)[0].rows for run in row.run_ids}
    assert not build.table(2, tmp_path).has_ours
    assert len(run_summary(tmp_path, run_id).table.rows) == 1
