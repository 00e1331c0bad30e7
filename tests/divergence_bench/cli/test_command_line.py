"""The command line as its users meet it: real processes, exit status, one-line errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.store.database import Database

TINY = [
    "--epochs", "1", "--train-limit", "64", "--eval-limit", "12", "--attacks", "apgd-ce",
    "--batch-size", "32", "--device", "cpu", "--set", "training.monitor.every=0",
]  # fmt: skip


def harness(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", **environment},
        timeout=240,
    )


def refused(*arguments: str) -> str:
    """The one error line with which a refused command ends."""
    ended = harness(*arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one tiny finished run."""
    results = tmp_path_factory.mktemp("results")
    ended = harness("run", "--method", "trades", *TINY, "--results", str(results))
    assert ended.returncode == 0, ended.stderr
    assert "TRADES" in ended.stdout
    assert "stored in" in ended.stdout
    return results


def run_id(results: Path) -> str:
    (path,) = (results / "runs").iterdir()
    return path.name


def test_the_same_command_again_trains_nothing_and_answers_the_same(stored: Path) -> None:
    model = stored / "runs" / run_id(stored) / "model.pt"
    before = model.stat().st_mtime_ns
    again = harness("run", "--method", "trades", *TINY, "--results", str(stored), "--json")
    assert again.returncode == 0, again.stderr
    assert model.stat().st_mtime_ns == before
    json.loads(again.stdout)
    assert Database(stored).query("select count(*) as n from runs")["n"][0] == 1


def test_show_and_list_speak_of_the_stored_run(stored: Path) -> None:
    listed = json.loads(harness("list", "runs", "--results", str(stored), "--json").stdout)
    assert [row["run"] for row in listed] == [run_id(stored)]
    heads, row = harness(
        "list", "runs", "--results", str(stored), COLUMNS="120"
    ).stdout.splitlines()
    filled = [name for name, value in listed[0].items() if value is not None and name != "note"]
    assert heads.split() == filled
    assert row.split()[:2] == [run_id(stored), "success"]
    assert row.rstrip().endswith(listed[0]["started"][:16].replace("T", " "))
    shown = harness("show", run_id(stored), "--results", str(stored))
    assert shown.returncode == 0, shown.stderr
    assert "partial" in shown.stdout
    heads, clean, first = (
        line.split()
        for line in shown.stdout.splitlines()
        if line.startswith(("stage", "clean ", "apgd-ce "))
    )
    assert heads == ["stage", "attacked", "broken", "fwd", "bwd", "seconds", "left"]
    (record,) = (json.loads(path.read_text()) for path in stored.rglob("evaluation.json"))
    facts, left = record["stages"]["apgd-ce"], record["metrics"]["apgd-ce"]["value"]
    assert clean[1] == "12"
    counts = [facts[name] for name in ("attacked", "broken", "forward", "backward")]
    assert list(map(int, first[1:5])) == counts
    assert first[6] == f"{100 * left:.2f}%"


def test_evaluating_a_run_again_by_another_protocol_keeps_both(stored: Path) -> None:
    ended = harness(
        "evaluate", run_id(stored), "--eps", "0.05", "--attacks", "apgd-ce", "--eval-limit", "12",
        "--results", str(stored), "--json",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    rows = Database(stored).query("select eps from evaluations order by eps")
    assert rows["eps"].tolist() == pytest.approx([0.05, 0.15])


def test_a_stored_run_has_its_own_model_and_data_set(stored: Path) -> None:
    command = ["evaluate", run_id(stored), "--attacks", "", "--results", str(stored)]
    line = refused(*command, "--dataset", "cifar100", "--arch", "resnet8", "--weights", "w.pt")
    assert "--dataset and --weights given" in line
    ended = harness(*command, "--dataset", "digits", "--eval-limit", "12")
    assert ended.returncode == 0, ended.stderr


def test_a_rebuilt_database_holds_the_same(stored: Path) -> None:
    before = Database(stored).query("select * from metrics order by all")
    (stored / "harness.duckdb").unlink()
    ended = harness("db", "rebuild", "--results", str(stored))
    assert ended.returncode == 0, ended.stderr
    assert Database(stored).query("select * from metrics order by all").equals(before)


def test_a_checkpoint_file_is_evaluated(stored: Path, tmp_path: Path) -> None:
    model = stored / "runs" / run_id(stored) / "model.pt"
    ended = harness(
        "evaluate", str(model), "--dataset", "digits", "--attacks", "apgd-ce", "--eval-limit", "12",
        "--results", str(tmp_path), "--json",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert Database(tmp_path).query("select kind from runs")["kind"].tolist() == ["loaded"]


def test_a_loss_that_turns_nan_names_the_step_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    line = refused(
        "run", "--method", "trades", *TINY, "--epochs", "3", "--lr", "1e9",
        "--results", str(tmp_path),        "--set", "training.optimizer.warmup_epochs=0",
    )  # fmt: skip
    assert re.search(r"the loss is not finite at epoch \d, step \d+; the checkpoint", line)
    assert list(tmp_path.rglob("checkpoints/last.pt"))
    record = json.loads(next(tmp_path.rglob("run.json")).read_text())
    assert record["status"] == "error"
    assert not list(tmp_path.rglob("model.pt"))


def test_sql_and_lists_can_be_read_in_a_pipe_of_80_columns(stored: Path) -> None:
    run = run_id(stored)
    arguments = "--results", str(stored)
    rows = harness("sql", "select * from runs", *arguments, COLUMNS="80").stdout.splitlines()
    assert rows[0] == "-[ 1 ]-"
    assert re.fullmatch(rf"run_id +{run}", rows[1])
    listed = harness("list", "runs", *arguments, COLUMNS="80").stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].startswith(run)
    recipes = harness("list", "recipes", COLUMNS="40").stdout
    assert re.search(r"^table2/\S+ +\S+ +cifar100 +wrn-34-10 +\d+ +\d+ *$", recipes, re.MULTILINE)


@pytest.mark.parametrize(
    "query",
    [
        "select timestamptz '2026-01-02 03:04:05+00' t, sum(3) as n, 1 as n",
        "select [timestamptz '2026-01-02 03:04:05+00'] t, 3 as n -- in a list",
        "with a as (select timestamptz '2026-01-02 03:04:05+00' t) select t, 3 as n from a;",
    ],
)
def test_sql_shows_times_with_their_zone(stored: Path, query: str) -> None:
    ended = harness("sql", query, "--results", str(stored), "--json", TZ="UTC")
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(ended.stdout)
    assert "2026-01-02 03:04:05+00" in row["t"]
    assert row["n"] in (1, 3)
