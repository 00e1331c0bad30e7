"""The database is rebuilt, refused or migrated; damage is named, and queries only read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import UserError
from harness.store.database import Database
from harness.store.removal import set_aside
from harness.store.rundir import EvaluationDirectory, RunDirectory
from harness.store.verdicts import write_verdicts
from tests.harness.store.conftest import assert_same, contents

MakeRun = Callable[..., RunDirectory]

REPORTED = """\
table,dataset,task,method,citation,teacher,student_or_arch,augmentation,setting,metric,value,std,bold,underlined,note
2,CIFAR-100,at,"One, of many",[1],,WRN-34-10,Basic,,aa,31.45,,1,0,
7,CIFAR-100,kd,Two,,WRN-40-2,VGG8,,manner=Logits,top1,77.19,0.01,0,1,"a note"
"""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path, wait_s=5)


def test_rebuilding_gives_what_recording_gave(database, make_run, tmp_path):
    csv = tmp_path / "reported.csv"
    csv.write_text(REPORTED)
    database.load_reported(csv)
    for number in range(3):
        run = make_run(f"r-{number}", epochs=number)
        run.update(status="started")
        database.record(run)
        run.append_epoch({"epoch": number + 1, "loss": 0.5, "parts": {}})
        run.update(status="success")
        database.record(run)
    recorded = contents(database)
    rebuilt = database.rebuild(csv)
    assert rebuilt.unreadable == []
    assert_same(recorded, contents(database))
    del recorded["meta"]
    assert rebuilt.counts == {name: len(frame) for name, frame in recorded.items()}
    assert rebuilt.counts["runs"] == 3
    assert rebuilt.counts["verdicts"] == 60
    assert not list(tmp_path.glob(".harness*"))


DAMAGE: dict[str, Callable[[RunDirectory], object]] = {
    "run.json is not valid JSON": lambda run: run.record_path.write_text("{"),
    "cannot read .*run.json": lambda run: run.record_path.unlink(),
    "run.json is not valid JSON .*recursion": lambda run: run.record_path.write_text("[" * 10**5),
    "holds no JSON object": lambda run: run.record_path.write_text("[]"),
    "line 1 of": lambda run: run.epochs_path.write_text("{\n{}\n"),
    "a duplicate epoch": lambda run: run.append_epoch({"epoch": 1}),
    "epoch or an invalid line": lambda run: run.append_epoch({"loss": 1.0}),
    "recipe_changes in": lambda run: run.update(recipe_changes=[1]),
    "wall_s in": lambda run: run.update(wall_s="long"),
    "seed in .* is missing or not valid": lambda run: run.update(seed="three"),
    "a value in .* has a wrong type": lambda run: run.update(started_at="yesterday"),
    "wrong type .*(too large|too big)": lambda run: run.update(seed=10**20),
    "metrics in": lambda run: run.update(metrics=[1]),
    "dataset in .* is missing": lambda run: drop(run.record_path, "dataset"),
}


def drop(path: Path, field: str) -> None:
    record = json.loads(path.read_text())
    del record[field]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_run_is_named_and_the_others_survive(database, make_run, reason):
    runs = {run_id: make_run(run_id) for run_id in ("a", "b", "c")}
    DAMAGE[reason](runs["b"])
    rebuilt = database.rebuild()
    assert [path.name for path, _ in rebuilt.unreadable] == ["b"]
    assert re.search(reason, rebuilt.unreadable[0][1])
    for table in ("runs", "verdicts", "epochs", "metrics", "artifacts", "evaluations"):
        found = database.query(f"SELECT DISTINCT run_id FROM {table} ORDER BY run_id")
        assert found["run_id"].tolist() == ["a", "c"], table
    with pytest.raises(UserError, match=reason):
        database.record(runs["b"])
    assert not database.lacks("b")


def altered(evaluation: EvaluationDirectory, column: str, values: list[Any]) -> None:
    """Write the verdicts again with another column."""
    verdicts = pq.read_table(evaluation.verdicts_path)
    place = verdicts.schema.get_field_index(column)
    write_verdicts(
        verdicts.set_column(place, column, pa.array(values, verdicts.schema.field(column).type)),
        evaluation.verdicts_path,
    )


EVALUATION_DAMAGE: dict[str, Callable[[EvaluationDirectory], object]] = {
    "evaluation.json is not valid JSON": lambda each: each.record_path.write_text("x"),
    "protocol in .* is missing": lambda each: drop(each.record_path, "protocol"),
    "metrics in .* is missing": lambda each: drop(each.record_path, "metrics"),
    "metrics.clean.value in": lambda each: each.update(metrics={"clean": {"value": "much"}}),
    "verdicts.parquet cannot be": lambda each: each.verdicts_path.write_text("x"),
    r"cannot be read \(.*verdicts.parquet\)": lambda each: each.verdicts_path.unlink(),
    "digest 000000": lambda each: each.update(verdicts_digest="0" * 64),
    "are not those that were written": lambda each: altered(each, "broken_by", [None] * 20),
    "say 18 of 20 for clean, .* says 0.9500": lambda each: each.update(
        metrics=each.record["metrics"] | {"clean": {"value": 0.95}}
    ),
    "metrics lack robust": lambda each: each.update(
        metrics={k: v for k, v in each.record["metrics"].items() if k != "robust"}
    ),
    "finished_at in .* is": lambda each: drop(each.record_path, "finished_at"),
    "protocol.standard in .* is missing": lambda each: each.update(
        protocol={k: v for k, v in each.record["protocol"].items() if k != "standard"}
    ),
    "are of 20 images, not of 30": lambda each: each.update(
        protocol=each.record["protocol"] | {"n": 30}
    ),
}


@pytest.mark.parametrize("reason", EVALUATION_DAMAGE)
def test_a_damaged_evaluation_is_named_and_the_run_and_its_others_survive(
    database, make_run, add_evaluation, reason
):
    run = make_run("a")
    add_evaluation(run, "e2")
    database.record(run)
    before = contents(database, "evaluations", "verdicts")
    run.append_epoch({"epoch": 4, "loss": 0.1})
    damaged = run.evaluation("e1")
    EVALUATION_DAMAGE[reason](damaged)
    # The rows that it had when it was whole are kept.
    ((folder, why),) = database.record(run).items()
    assert folder == damaged.path
    assert re.search(reason, why)
    assert_same(before, contents(database, "evaluations", "verdicts"))
    assert database.query("SELECT max(epoch) AS n FROM epochs")["n"].item() == 4
    rebuilt = database.rebuild()
    assert rebuilt.unreadable == [(folder, why)]
    for table in ("verdicts", "evaluations"):
        found = database.query(f"SELECT DISTINCT evaluation_id FROM {table}")
        assert found["evaluation_id"].tolist() == ["e2"], table
    assert rebuilt.counts["runs"] == 1


def test_what_cannot_be_stored_now_is_stored_by_the_next_query(database, make_run):
    database.record(make_run("a"))
    holder = duckdb.connect(str(database.path), read_only=True)
    patient, hasty = database, Database(database.results, wait_s=0.05)
    for run_id in ("b", "c"):
        with pytest.raises(UserError, match="has held the results database"):
            hasty.record(make_run(run_id))
        assert database.lacks(run_id)
    holder.close()
    assert patient.query("SELECT run_id FROM runs ORDER BY 1")["run_id"].tolist() == ["a", "b", "c"]
    assert not any(map(database.lacks, "abc"))


def test_a_run_set_aside_while_the_database_is_held_loses_its_rows_later(database, make_run):
    run = make_run("a")
    database.record(run)
    database.record(make_run("b"))
    holder = duckdb.connect(str(database.path), read_only=True)
    aside = set_aside(run)
    assert not run.path.exists()
    assert RunDirectory(aside, "a").exists
    holder.close()
    for table in ("runs", "evaluations", "verdicts", "metrics", "epochs"):
        left = database.query(f"SELECT DISTINCT run_id FROM {table}")["run_id"]
        assert left.tolist() == ["b"], table


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE meta",
        "DELETE FROM meta",
        "UPDATE meta SET value = 'two' WHERE name = 'schema_version'",
        "ALTER TABLE meta RENAME value TO worth",
        "DROP TABLE runs",
    ],
)
def test_a_database_of_other_tables_is_refused_in_a_sentence_and_rebuilt(database, make_run, sql):
    run = make_run()
    database.record(run)
    with duckdb.connect(str(database.path)) as connection:
        connection.execute(sql)
    with pytest.raises(UserError, match="rebuild it from the run directories"):
        database.record(run)
    with pytest.raises(UserError, match=r"the results database|the database refuses"):
        database.query("SELECT count(*) FROM runs")
    database.rebuild()
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 1


def test_a_folder_in_the_databases_place_is_a_users_mistake(database, make_run):
    run = make_run()
    database.path.mkdir()
    for call in (lambda: database.record(run), database.rebuild, lambda: database.query("FROM x")):
        with pytest.raises(UserError, match=re.escape(str(database.path))):
            call()


def test_a_mistyped_folder_is_not_rebuilt(tmp_path):
    missing = tmp_path / "reslts"
    with pytest.raises(UserError, match=r"reslts holds no folder 'runs'"):
        Database(missing).rebuild()
    assert not missing.exists()


def test_characters_that_steer_a_terminal_are_escaped_wherever_they_are_read(database, make_run):
    title = "a\x1b[31mred\x07\u202etxt\ud800"
    shown = r"a\x1b[31mred\x07\u202etxt\ud800"
    run = make_run(method_title=title, source={title: [title]})
    assert run.record["method_title"] == shown
    assert run.record["source"] == {shown: [shown]}
    database.record(run)
    assert database.query("SELECT method_title FROM runs")["method_title"].tolist() == [shown]


def test_a_folder_without_runs_is_rebuilt_to_an_empty_database(tmp_path):
    (tmp_path / "runs").mkdir()
    rebuilt = Database(tmp_path).rebuild()
    assert set(rebuilt.counts.values()) == {0}
    assert not rebuilt.unreadable


def test_a_failing_rebuild_leaves_the_old_database(database, make_run, tmp_path):
    database.record(make_run())
    before = contents(database)
    make_run("another")
    with pytest.raises(UserError, match="not a valid file of published numbers"):
        database.rebuild(tmp_path / "none.csv")
    assert_same(before, contents(database))
    assert not list(tmp_path.glob(".harness*"))


def test_a_damaged_database_is_refused_and_rebuilt(database, make_run):
    run = make_run()
    database.path.write_bytes(b"garbage" * 1000)
    for call in (lambda: database.query("SELECT 1"), lambda: database.record(run)):
        with pytest.raises(UserError, match="rebuild it from the run directories"):
            call()
    database.rebuild()
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 1


def test_a_newer_schema_is_refused_and_left_alone(database, make_run):
    run = make_run()
    database.record(run)
    with duckdb.connect(str(database.path)) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    before = database.path.read_bytes()
    for call in (lambda: database.query("SELECT 1"), lambda: database.record(run)):
        with pytest.raises(UserError, match="update divergence-bench"):
            call()
    assert database.path.read_bytes() == before


def test_an_older_schema_is_migrated_by_its_first_reader(database, make_run):
    run = make_run()
    with duckdb.connect(str(database.path)) as connection:
        connection.execute("CREATE TABLE unrelated (x INTEGER)")
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 0
    database.record(run)
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 1


def test_reported_numbers_are_loaded_once(database, tmp_path):
    csv = tmp_path / "reported.csv"
    csv.write_text(REPORTED)
    database.load_reported(csv)
    rows = database.query("SELECT * FROM reported ORDER BY row_number")
    assert rows["table_number"].tolist() == [2, 7]
    assert rows["method"].tolist() == ["One, of many", "Two"]
    assert rows["bold"].tolist() == [True, False]
    assert rows["std"].isna().tolist() == [True, False]
    assert rows["teacher"].tolist() == ["", "WRN-40-2"]
    assert rows["page"].isna().all()
    written = database.path.stat().st_mtime_ns
    database.load_reported(csv)
    assert database.path.stat().st_mtime_ns == written
    csv.write_text(REPORTED.replace("31.45", "31.46"))
    database.load_reported(csv)
    values = database.query("SELECT value FROM reported ORDER BY row_number")["value"]
    assert values.tolist() == [31.46, 77.19]


def test_a_file_of_other_columns_is_refused(database, tmp_path):
    csv = tmp_path / "reported.csv"
    for text in ("a,b\n1,2\n", REPORTED.replace("31.45", "much"), ""):
        csv.write_text(text)
        with pytest.raises(UserError, match="not a valid file of published numbers"):
            database.load_reported(csv)


def test_a_query_can_read_the_database_and_nothing_else(database, make_run, tmp_path):
    with pytest.raises(UserError, match="there is no results database"):
        database.query("SELECT 1")
    database.record(make_run())
    frame = pd.DataFrame({"x": [1]})
    assert len(frame) == 1
    for sql in (
        "DELETE FROM runs",
        "SELECT * FROM frame",
        f"COPY runs TO '{tmp_path / 'out.csv'}'",
        f"SELECT * FROM read_text('{__file__}')",
        "SELEC 1",
    ):
        with pytest.raises(UserError, match="refuses the query"):
            database.query(sql)
    assert not (tmp_path / "out.csv").exists()


def test_queries_that_belong_together_open_the_file_once(database, make_run, monkeypatch):
    database.record(make_run())
    opened: list[bool] = []
    real = duckdb.connect

    def counting(*given: Any, **named: Any) -> Any:
        opened.append(named["read_only"])
        return real(*given, **named)

    monkeypatch.setattr(duckdb, "connect", counting)
    with database.reading():
        for _ in range(2):
            found = database.query("SELECT run_id FROM like_runs")
            assert found["run_id"].tolist() == ["some-000000000000"]
    assert opened == [True]
    database.query("SELECT 1")
    assert opened == [True, True]
