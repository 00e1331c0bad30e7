"""The verbs together on one stored run: the first command is a real process, as users start it."""

import io
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from divergence_bench.cli.main import main
from harness.config import eps_text
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from harness.store.schema import TABLES

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
    assert heads.split() == list(listed)
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
    own = RunDirectory(stored, run_id(stored)).own_evaluation()
    assert own is not None
    record = own.record
    facts, left = record["stages"]["apgd-ce"], record["metrics"]["apgd-ce"]["value"]
    assert clean[1] == "12"
    counts = [facts[name] for name in ("attacked", "broken", "forward", "backward")]
    assert list(map(int, first[1:5])) == counts
    assert first[6] == f"{100 * left:.2f}%"


def test_evaluating_a_run_again_by_another_protocol_keeps_both(stored, succeeds) -> None:
    # Other tests evaluate this run as well.
    query = "select * from evaluations order by evaluation_id"
    before = Database(stored).query(query)
    options = ["--eps", "0.07", "--attacks", "apgd-ce", "--eval-limit", "12", "--json"]
    succeeds("evaluate", run_id(stored), *options)
    after = Database(stored).query(query)
    is_old = after["evaluation_id"].isin(before["evaluation_id"])
    assert after["eps"][~is_old].tolist() == [0.07]
    pd.testing.assert_frame_equal(after[is_old].reset_index(drop=True), before)
    assert 0.15 in before["eps"].tolist()


def test_a_budget_is_named_with_its_number_and_ranked_apart(stored, succeeds, refused) -> None:
    run = run_id(stored)
    for budget in ("fast,n_iter=3", "n_iter=3,n_queries=9"):
        succeeds("evaluate", run, "--budget", budget, "--eval-limit", "12")
    found = Database(stored).query(
        "select attacks, attack_version, like_key from finished_evaluations "
        "where attack_version like '%budget(n_iter=3%' order by attacks"
    )
    assert found["attacks"].tolist() == ["apgd-ce", "apgd-ce,apgd-t"]
    own, fast = found["attack_version"]
    assert own.startswith("custom(apgd-ce) ")
    assert own.endswith("budget(n_iter=3,n_queries=9)")
    assert fast.startswith("custom(apgd-ce,apgd-t) ")
    assert fast.endswith("budget(n_iter=3)")
    assert found["like_key"].nunique() == 2
    line = refused("evaluate", run, "--budget", "fast", "--attacks", "square")
    assert "--attacks and --budget fast both name attacks" in line
    assert "'slow' is not a budget" in refused("evaluate", run, "--budget", "slow")
    assert "n_iter = 0 is refused" in refused(
        "evaluate", run, "--budget", "n_iter=0", "--results", str(stored)
    )


def test_a_run_is_shown_and_listed_by_its_own_protocol_not_by_its_newest(stored, succeeds) -> None:
    run = run_id(stored)
    succeeds("evaluate", run, "--eps", "0.05", "--attacks", "apgd-ce", "--eval-limit", "12")
    rows = Database(stored).query(
        "select * from evaluations where attacks <> '' order by started_at, eps desc"
    )
    # The first is the run's own; other tests evaluate this run as well.
    own, other = rows["evaluation_id"][0], rows[rows["eps"] == 0.05]["evaluation_id"].item()
    assert rows["finished_at"].max() > rows["finished_at"][0]
    assert json.loads(succeeds("show", run, "--json"))["evaluation"] == own
    records = {each: RunDirectory(stored, run).evaluation(each).record for each in (own, other)}
    (listed,) = json.loads(succeeds("list", "runs", "--json"))
    for metric in ("clean", "robust"):
        assert listed[metric] == records[own]["metrics"][metric]["value"]
    for options, shown, line in (((), own, other), (("--evaluation", other[:6]), other, own)):
        text = succeeds("show", run, *options)
        (title,) = (line for line in text.splitlines() if line.startswith("digits | "))
        assert f"Linf {eps_text(records[shown]['protocol']['eps'])}" in title
        places = [text.index(f"evaluation {each}: ") for each in (shown, line)]
        assert places[0] < text.index("attacked") < places[1]


def test_an_evaluation_that_is_not_there_is_refused_by_name(stored, refused) -> None:
    line = refused("show", run_id(stored), "--evaluation", "zz", "--results", str(stored))
    assert "has no such finished evaluation" in line


def test_a_run_that_begins_again_is_another_and_the_old_one_is_kept(
    stored, call, refused, tmp_path: Path
) -> None:
    results, run = tmp_path / "results", run_id(stored)
    shutil.copytree(stored / "runs", results / "runs")
    old = results / "runs" / run
    (old / "epochs.jsonl").write_text("{}\n" * 7)
    command = ["run", "--method", "trades", *TINY, "--results", str(results), "--fresh"]
    assert "32 images" not in refused(*command, "--batch-size", "1", "--train-limit", "0")
    assert (old / "epochs.jsonl").read_text() == "{}\n" * 7
    ended = call(*command)
    assert ended.status == 0, ended.err
    (kept,) = (results / "replaced").iterdir()
    assert f"the previous run is kept in {kept}" in ended.err
    assert (kept / "runs" / run / "epochs.jsonl").read_text() == "{}\n" * 7
    assert len((old / "epochs.jsonl").read_text().splitlines()) == 1
    before = (stored / "runs" / run / "run.json").read_text()
    after = json.loads((old / "run.json").read_text())
    assert after["model_sha256"] == json.loads(before)["model_sha256"]
    assert after["started_at"] > json.loads(before)["started_at"]
    assert [path.name for path in (old / "evaluations").iterdir()]
    assert len(Database(results).query("select * from evaluations")) == 1


def test_a_deleted_run_is_gone_and_its_students_are_named(
    stored, call, refused, monkeypatch, tmp_path: Path
) -> None:
    results, run = tmp_path / "results", run_id(stored)
    shutil.copytree(stored / "runs", results / "runs")
    student = results / "runs" / "kd-0"
    shutil.copytree(results / "runs" / run, student)
    record = json.loads((student / "run.json").read_text())
    record |= {"run_id": "kd-0", "config": record["config"] | {"teacher": {"weights": run}}}
    (student / "run.json").write_text(json.dumps(record))
    shutil.rmtree(student / "evaluations")
    command = ["db", "delete", run[:9], "--results", str(results)]
    call("db", "rebuild", "--results", str(results))

    with RunDirectory(results, run).lock():
        assert "another process is working" in refused(*command, "--yes")
    for answer in ("n\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        declined = call(*command)
        assert (declined.status, declined.out) == (2, "")
        assert declined.err.endswith("\nerror: nothing was done: the answer was not yes\n")
    assert f"{run} is the teacher of kd-0\n" in declined.err
    assert (results / "runs" / run / "model.pt").exists()

    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert call(*command).out == f"deleted {run}\n"
    assert [path.name for path in (results / "runs").iterdir()] == ["kd-0"]
    for table in TABLES.values():
        if any(column.name == "run_id" for column in table.columns):
            found = Database(results).query(f"select distinct run_id from {table.name}")
            assert set(found["run_id"]) <= {"kd-0"}
    deleted = json.loads(call("db", "delete", "kd-0", "--yes", "--json", *command[3:]).out)
    assert deleted == {"deleted": "kd-0", "teacher_of": []}


def test_a_quiet_command_prints_its_result_alone(stored, call) -> None:
    command = ["evaluate", run_id(stored), "--attacks", "", "--eval-limit", "12"]
    ended = call(*command, "--quiet", "--results", str(stored))
    assert (ended.status, ended.err) == (0, "")
    assert "stored in" in ended.out


def test_what_a_models_code_prints_is_not_among_the_results(
    capfd, monkeypatch, tmp_path: Path
) -> None:
    (tmp_path / "talkative.py").write_text(
        "import os, torch\n"
        "def make():\n"
        "    print('hello')\n"
        "    os.write(1, b'as C++ does')\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["evaluate", "talkative:make", "--dataset", "digits", "--attacks", "", "--json"]
    monkeypatch.setattr(sys, "argv", ["harness", *command, "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out, err = capfd.readouterr()
    assert json.loads(out)["rows"]
    assert "hello" in err
    assert "as C++ does" in err


def test_names_that_look_like_markup_are_printed_as_they_are(stored, call, tmp_path: Path) -> None:
    results = tmp_path / "x [/red]:warning:[bold]y"
    shutil.copytree(stored, results)
    name = "[red]x:x:[b]"
    place, run = ["--results", str(results)], run_id(stored)
    shown = call(
        "evaluate", str(results / "runs" / run / "model.pt"), "--dataset", "digits",
        "--attacks", "apgd-ce", "--eval-limit", "12", "--set", "budget.n_iter=5", "--name", name,
        *place, columns=200,
    )  # fmt: skip
    assert shown.status == 0, shown.err
    assert name in shown.out
    assert f"stored in {results}" in shown.out
    (loaded,) = (path.name for path in (results / "runs").glob("loaded-*"))
    for command in (["show", loaded], ["show", run], ["list", "runs"], ["compare", run, loaded]):
        ended = call(*command, *place, columns=200)
        assert ended.status == 0, ended.err
    assert name in call("show", loaded, *place, columns=200).out
    assert str(results) in call("show", run, *place, columns=200).out
    last = call("run", "--method", "trades", *TINY, *place)
    assert f"stored in {results}" in last.out
    assert f"show {run} --results '{results}'" in last.out


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
    assert re.search(r"the loss is not finite at epoch \d, step \d+: try a lower", line)
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
