"""The verbs together on one stored run: the first command is a real process, as users start it."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.store.database import Database

TINY = [
    "--epochs", "1", "--train-limit", "64", "--eval-limit", "12", "--attacks", "apgd-ce",
    "--batch-size", "32", "--device", "cpu", "--set", "training.monitor.every=0",
    "--set", "evaluation.budget.n_iter=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one tiny finished run."""
    results = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "harness", "run", "--method", "trades", *TINY]
    ended = subprocess.run(
        [*command, "--results", str(results)], capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    assert "TRADES" in ended.stdout
    assert "stored in" in ended.stdout
    return results


@pytest.fixture
def succeeds(call, stored: Path):
    """Runs a command on the stored results and returns its output."""

    def run(*arguments: str, columns: int = 100) -> str:
        ended = call(*arguments, "--results", str(stored), columns=columns)
        assert ended.status == 0, ended.err
        return ended.out

    return run


def run_id(results: Path) -> str:
    (path,) = (results / "runs").iterdir()
    return path.name


def test_the_same_command_again_trains_nothing_and_answers_the_same(stored, succeeds) -> None:
    model = stored / "runs" / run_id(stored) / "model.pt"
    before = model.stat().st_mtime_ns
    json.loads(succeeds("run", "--method", "trades", *TINY, "--json"))
    assert model.stat().st_mtime_ns == before
    assert Database(stored).query("select count(*) as n from runs")["n"][0] == 1


def test_show_and_list_describe_the_stored_run(stored, succeeds) -> None:
    (listed,) = json.loads(succeeds("list", "runs", "--json"))
    assert listed["run"] == run_id(stored)
    heads, row = succeeds("list", "runs", columns=120).splitlines()
    filled = [name for name, value in listed.items() if value is not None and name != "note"]
    assert heads.split() == filled
    assert row.split()[:2] == [run_id(stored), "success"]
    assert row.rstrip().endswith(listed["started"][:16].replace("T", " "))
    shown = succeeds("show", run_id(stored))
    assert "partial" in shown
    heads, clean, first = (
        line.split()
        for line in shown.splitlines()
        if line.startswith(("stage", "clean ", "apgd-ce "))
    )
    assert heads == ["stage", "attacked", "broken", "fwd", "bwd", "seconds", "left"]
    (record,) = (json.loads(path.read_text()) for path in stored.rglob("evaluation.json"))
    facts, left = record["stages"]["apgd-ce"], record["metrics"]["apgd-ce"]["value"]
    assert clean[1] == "12"
    counts = [facts[name] for name in ("attacked", "broken", "forward", "backward")]
    assert list(map(int, first[1:5])) == counts
    assert first[6] == f"{100 * left:.2f}%"


def test_evaluating_a_run_again_by_another_protocol_keeps_both(stored, succeeds) -> None:
    options = ["--eps", "0.05", "--attacks", "apgd-ce", "--eval-limit", "12", "--json"]
    succeeds("evaluate", run_id(stored), *options)
    rows = Database(stored).query("select eps from evaluations order by eps")
    assert rows["eps"].tolist() == pytest.approx([0.05, 0.15])


def test_a_stored_run_has_its_own_model_and_dataset(stored, succeeds, refused) -> None:
    command = ["evaluate", run_id(stored), "--attacks", ""]
    other = ["--dataset", "cifar100", "--arch", "resnet8", "--weights", "w.pt"]
    line = refused(*command, *other, "--results", str(stored))
    assert "--dataset and --weights given" in line
    succeeds(*command, "--dataset", "digits", "--eval-limit", "12")


def test_a_rebuilt_database_holds_the_same(stored, succeeds) -> None:
    before = Database(stored).query("select * from metrics order by all")
    (stored / "harness.duckdb").unlink()
    succeeds("db", "rebuild")
    assert Database(stored).query("select * from metrics order by all").equals(before)


def test_a_checkpoint_file_is_evaluated(stored, call, tmp_path: Path) -> None:
    model = stored / "runs" / run_id(stored) / "model.pt"
    ended = call(
        "evaluate", str(model), "--dataset", "digits", "--attacks", "apgd-ce", "--eval-limit", "12",
        "--results", str(tmp_path), "--json",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    assert Database(tmp_path).query("select kind from runs")["kind"].tolist() == ["loaded"]


def test_a_loss_that_turns_nan_names_the_step_and_keeps_the_last_checkpoint(
    refused, tmp_path: Path
) -> None:
    line = refused(
        "run", "--method", "trades", *TINY, "--epochs", "3", "--lr", "1e9",
        "--results", str(tmp_path), "--set", "training.optimizer.warmup_epochs=0",
    )  # fmt: skip
    assert re.search(r"the loss is not finite at epoch \d, step \d+; the checkpoint", line)
    assert list(tmp_path.rglob("checkpoints/last.pt"))
    record = json.loads(next(tmp_path.rglob("run.json")).read_text())
    assert record["status"] == "error"
    assert not list(tmp_path.rglob("model.pt"))


def test_sql_and_lists_can_be_read_in_a_pipe_of_80_columns(stored, succeeds, call) -> None:
    rows = succeeds("sql", "select * from runs", columns=80).splitlines()
    assert rows[0] == "-[ 1 ]-"
    assert re.fullmatch(rf"run_id +{run_id(stored)}", rows[1])
    listed = succeeds("list", "runs", columns=80).splitlines()
    assert len(listed) == 2
    assert listed[1].startswith(run_id(stored))
    recipes = call("list", "recipes", columns=40).out
    assert re.search(r"^table2/\S+ +\S+ +cifar100 +wrn-34-10 +\d+ +\d+ *$", recipes, re.MULTILINE)


@pytest.mark.parametrize(
    "query",
    [
        "select timestamptz '2026-01-02 03:04:05+00' t, sum(3) as n, 1 as n",
        "select [timestamptz '2026-01-02 03:04:05+00'] t, 3 as n -- in a list",
        "with a as (select timestamptz '2026-01-02 03:04:05+00' t) select t, 3 as n from a;",
    ],
)
def test_sql_shows_times_with_their_zone(succeeds, query: str) -> None:
    (row,) = json.loads(succeeds("sql", query, "--json"))
    found = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-][\d:]+", row["t"])
    assert found
    assert datetime.fromisoformat(found[0]) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert row["n"] in (1, 3)
