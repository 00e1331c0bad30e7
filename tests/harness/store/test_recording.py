"""A run becomes rows of the database, once, and again where it grew."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.config import RunConfig
from harness.store import rundir as rundir_module
from harness.store.database import Database
from harness.store.ingest import seed_group
from harness.store.rundir import RunDirectory
from tests.harness.store.conftest import assert_same, contents

MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path, wait_s=5)


def test_a_run_becomes_rows(database, make_run):
    database.record(make_run(seed=3))
    run = database.query("SELECT * FROM runs").iloc[0]
    assert run["run_id"] == "some-000000000000"
    assert run["status"] == "success"
    assert run["seed"] == 3
    assert run["epochs_planned"] == RunConfig(method="some").training.epochs
    assert run["git_commit"] == "abc"
    assert run["git_dirty"]
    assert json.loads(run["config"])["method"] == "some"
    assert run["started_at"] == pd.Timestamp("2026-01-02T03:04:05")
    evaluation = database.query("SELECT * FROM evaluations").iloc[0]
    assert evaluation["attacks"] == "apgd-ce,apgd-t"
    assert evaluation["image_limit"] == evaluation["n"] == 20
    assert evaluation["eps"] == 8 / 255
    assert evaluation["finished_at"] == pd.Timestamp("2026-01-02T03:04:05")
    assert json.loads(evaluation["flags"]) == ["a warning"]
    metrics = database.query("SELECT name, evaluation_id, value, n FROM metrics ORDER BY name")
    assert metrics[["name", "value"]].to_numpy().tolist() == [
        ["apgd-ce", 0.9], ["apgd-t", 0.75], ["clean", 0.9], ["robust", 0.75],
        ["sec_per_iter", 0.5], ["train_seconds", 12],
    ]  # fmt: skip
    assert metrics["evaluation_id"].isna().tolist() == [False] * 4 + [True] * 2


def test_epochs_keep_nan_and_their_parts_are_json(database, make_run):
    database.record(make_run())
    rows = database.query(
        "SELECT epoch, isnan(loss) AS is_nan, parts->>'ce' AS ce FROM epochs ORDER BY epoch"
    )
    assert rows["epoch"].tolist() == [1, 2, 3]
    assert rows["is_nan"].tolist() == [True, False, False]
    assert rows["ce"].isna().tolist() == [True, False, False]


def test_verdicts_are_counted(database, make_run):
    database.record(make_run())
    counts = database.query(
        "SELECT broken_by, count(*) AS n FROM verdicts WHERE run_id = ? GROUP BY ALL ORDER BY ALL",
        ["some-000000000000"],
    )
    counted = {None if pd.isna(k) else k: n for k, n in counts.itertuples(index=False)}
    assert counted == {"apgd-t": 3, "clean": 2, None: 15}
    robust = database.query(
        "SELECT avg((broken_by IS NULL)::INT) - any_value(value) AS gap FROM verdicts "
        "JOIN metrics USING (run_id, evaluation_id) WHERE name = $name",
        {"name": "robust"},
    )
    assert robust["gap"].item() == pytest.approx(0, abs=1e-12)


def test_recording_twice_changes_nothing(database, make_run):
    run = make_run()
    database.record(run)
    once = contents(database)
    database.record(run)
    assert_same(once, contents(database))


def test_a_grown_run_replaces_its_rows_only(database, make_run, add_evaluation):
    run, other = make_run("a-1"), make_run("b-2")
    database.record(run)
    database.record(other)
    run.append_epoch({"epoch": 4, "loss": 0.1})
    run.update(status="error", error="stopped")
    add_evaluation(run, "e2", n=10)
    database.record(run)
    counts = database.query(
        "SELECT run_id, (SELECT count(*) FROM epochs e WHERE e.run_id = r.run_id) AS epochs, "
        "(SELECT count(*) FROM verdicts v WHERE v.run_id = r.run_id) AS verdicts, status "
        "FROM runs r ORDER BY run_id"
    )
    assert counts.values.tolist() == [["a-1", 4, 30, "error"], ["b-2", 3, 20, "success"]]


def test_verdicts_are_read_again_only_if_their_file_changed(
    database, make_run, add_evaluation, monkeypatch
):
    run = make_run()
    read: list[str] = []
    real = rundir_module.read_verdicts

    def counting(path: Path, record: dict[str, Any]) -> object:
        read.append(path.parent.name)
        return real(path, record)

    monkeypatch.setattr(rundir_module, "read_verdicts", counting)
    database.record(run)
    database.record(run)
    assert read == ["e1"]
    add_evaluation(run, "e1", n=10)
    database.record(run)
    assert read == ["e1", "e1"]
    assert database.query("SELECT count(*) AS n FROM verdicts")["n"].item() == 10
    run.evaluation("e1").update(status="started")
    database.record(run)
    assert database.query("SELECT count(*) AS n FROM verdicts")["n"].item() == 0
    assert read == ["e1", "e1"]


def test_an_unchanged_artifact_is_not_hashed_again(database, make_run, monkeypatch):
    run = make_run()
    database.record(run)
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return "0" * 64

    monkeypatch.setattr("harness.store.ingest.file_sha256", counting)
    run.update(status="success")
    database.record(run)
    assert hashed == []
    run.model_path.write_bytes(b"other weights")
    database.record(run)
    assert hashed == ["model.pt"]
    rows = database.query("SELECT kind, path FROM artifacts ORDER BY kind")
    assert rows.values.tolist() == [
        ["model", "runs/some-000000000000/model.pt"],
        ["verdicts", "runs/some-000000000000/evaluations/e1/verdicts.parquet"],
    ]


def test_a_seed_group_is_the_configuration_without_seed_and_cost():
    config = RunConfig(method="some")
    same = config.model_copy(update={"seed": 7, "device": "cuda", "results": Path("other")})
    other = config.model_copy(update={"params": {"weight": 2}})
    groups = [seed_group(c.model_dump(mode="json")) for c in (config, same, other)]
    assert groups[0] == groups[1] != groups[2]
    assert seed_group({"old": 1, "seed": 1}) == seed_group({"old": 1, "seed": 2})
    assert seed_group({"old": 1}) != seed_group({"old": 2})


def test_recording_200_epochs_again_takes_little_more_space(database, make_run):
    run = make_run(epochs=200)
    database.record(run)
    once = os.path.getsize(database.path)
    for _ in range(10):
        database.record(run)
    assert os.path.getsize(database.path) < 2 * once
