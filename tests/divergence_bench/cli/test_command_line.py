"""The command line as its users meet it: real processes, exit status, one-line errors."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.models import build_model
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
    *before, line = ended.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert not any("error" in other.lower() for other in before)
    return line


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


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    ended = harness(
        "run", "--method", "trades", "--dry-run", "--json", "--results", str(tmp_path / "r")
    )
    plan = json.loads(ended.stdout)
    assert plan["training"] == "missing"
    assert plan["config"]["data"]["name"] == "digits"
    assert not (tmp_path / "r").exists()


def test_a_tables_recipe_names_its_method_and_carries_its_note() -> None:
    listed = json.loads(harness("list", "recipes", "--table", "6", "--json").stdout)
    assert {row["method"] for row in listed} == {"ikl"}
    assert [row["recipe"] for row in listed if "63.59" in (row["note"] or "")] == [
        "table6/ikl-a24-b3"
    ]
    assert (
        "note on table6/ikl-a24-b3: Tables 6 and 8"
        in harness("list", "recipes", "--table", "6").stdout
    )
    plan = json.loads(harness("run", "--recipe", "table6/ikl-a24-b3", "--dry-run", "--json").stdout)
    assert plan["config"]["method"] == "ikl"
    assert plan["config"]["params"]["wmse_weight"] == 24


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


@pytest.mark.parametrize("kind", ["methods", "recipes", "datasets", "models"])
def test_list_has_rows(kind: str) -> None:
    assert len(json.loads(harness("list", kind, "--json").stdout)) >= 5


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
    told = refused(*command, "--dataset", "cifar100", "--arch", "resnet8", "--weights", "w.pt")
    assert "--dataset and --weights given" in told
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--method", "tradse"], "unknown method 'tradse': did you mean trades"),
        (["run", "--method", "trades", "--recipe", "digit"], "did you mean digits"),
        (["run"], "give --method, or a --recipe"),
        (["run", "--recipe", "table2/ikl-a20-b5"], "or table2/ikl-a20-b4"),
        (["run", "--recipe", "digits"], "methods have a recipe 'digits', acat, at-awp"),
        (["run", "--method", "trades", "--dataset", "cifr10"], "did you mean cifar10"),
        (["run", "--method", "trades", "--arch", "resnet21"], "unknown architecture 'resnet21'"),
        (["run", "--method", "trades", "--eps=-1"], "no radius"),
        (["run", "--method", "trades", "--eps", ""], "no radius"),
        (["run", "--method", "trades", "--eps", "0.1", "--set", "evaluation.eps=0.2"], "leave one"),
        (["run", "--method", "trades", "--seed", str(2**63)], f"at most {2**63 - 1}"),
        (["run", "--method", "trades", "--train-limit", "2000"], "has 1437 training images"),
        (["run", "--method", "trades", "--eps", "300/255"], "evaluation.eps"),
        (["run", "--method", "trades", "--eval-limit", "361"], "360 test images"),
        (
            ["run", "--method", "trades", "--set", "training.epoch=3"],
            "did you mean training.epochs",
        ),
        (["run", "--method", "trades", "--device", "tpu9"], "device"),
        (
            ["run", "--method", "trades", "--dataset", "cifar10", "--data-root", "/no/such"],
            "/no/such",
        ),
        (["evaluate", "no-such-run"], "no-such-run"),
        (["evaluate", "timm:no_such_model", "--dataset", "digits"], "no_such_model"),
        (["list", "method"], "did you mean methods"),
        (["show", "no-such-run"], "no-such-run"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    assert says in refused(*arguments, *(["--results", str(tmp_path)]))
    statuses = [path.read_text() for path in tmp_path.rglob("run.json")]
    assert not any('"success"' in status for status in statuses)


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def bad_checkpoints(folder: Path) -> dict[str, tuple[Path, str]]:
    paths = {
        name: folder / f"{name}.pt" for name in ("html", "truncated", "other", "pickle", "bare")
    }
    paths["html"].write_text("<!doctype html><title>quota exceeded</title>")
    torch.save({"state_dict": build_model("resnet8", 10, 1, 8).state_dict()}, paths["truncated"])
    content = paths["truncated"].read_bytes()
    paths["other"].write_bytes(content)
    paths["bare"].write_bytes(content)
    paths["truncated"].write_bytes(content[: len(content) // 2])
    paths["pickle"].write_bytes(pickle.dumps(Dangerous()))
    says = {
        "html": "web page",
        "truncated": "truncated",
        "other": "another net",
        "pickle": "pickle",
        "bare": "arch",
    }
    return {name: (paths[name], text) for name, text in says.items()}


@pytest.mark.parametrize("name", ["html", "truncated", "other", "pickle", "bare"])
def test_a_checkpoint_that_is_none_is_refused_and_runs_no_code(name: str, tmp_path: Path) -> None:
    path, says = bad_checkpoints(tmp_path)[name]
    arch = {"bare": []}.get(name, ["--arch", "resnet14" if name == "other" else "resnet8"])
    line = refused(
        "evaluate", str(path), "--dataset", "digits", *arch, "--results", str(tmp_path / "r")
    )
    assert says in line
    assert not (tmp_path / "pwned").exists()
    assert not Path("pwned").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file in the folder's place only as root")
def test_an_unwritable_results_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    line = refused("run", "--method", "trades", *TINY, "--results", str(tmp_path / "taken"))
    assert str(tmp_path / "taken") in line


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
