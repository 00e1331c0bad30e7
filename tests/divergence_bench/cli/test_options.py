"""Options that change what a command does or writes, each in a whole call."""

import json
from pathlib import Path

import pytest
import torch

import divergence_bench as bench
from harness.data import load_dataset
from harness.experiment import regression
from harness.store.rundir import find_run, list_runs
from tests.harness.experiment.test_regression import BASELINE, result


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A results folder and its run, whose adversarial images are stored."""
    folder = tmp_path_factory.mktemp("results")
    found = bench.train(
        "vanilla", "digits", results=folder, epochs=3, n=20, eps=0.1,
        attacks="apgd-ce", evaluation={"save_adversarial": "float32"}, quiet=True,
    )  # fmt: skip
    return str(folder), found.run_id


def test_adversarial_images_are_exported_as_a_tensor(call, attacked, tmp_path: Path) -> None:
    results, run = attacked
    out = tmp_path / "adversarial.pt"
    ended = call("export-adversarial", run, "--out", str(out), "--results", results, "--json")
    assert ended.status == 0, ended.err
    images = torch.load(out, weights_only=True)
    assert json.loads(ended.out)["shape"] == list(images.shape) == [20, 1, 8, 8]
    clean = load_dataset("digits", splits=("test",)).test.images_float(slice(20))
    assert 0 < float((images - clean).abs().max()) <= 0.1 + 1e-6


def test_a_precision_ends_an_evaluation_when_it_is_reached(call, attacked) -> None:
    results, run = attacked
    command = ["evaluate", run, "--results", results, "--json", "--attacks", "", "--precision"]
    ended = call(*command, "20%", "--set", "chunk_size=40")
    assert ended.status == 0, ended.err
    evaluations = [each.record for each in find_run(Path(results), run).finished_evaluations()]
    (drawn,) = [each for each in evaluations if "population" in each["protocol"]]
    robust = drawn["metrics"]["robust"]
    assert robust["n"] < 360
    assert robust["high"] - robust["low"] <= 0.4


def test_a_tracked_run_has_event_files(call, tmp_path: Path) -> None:
    ended = call(
        *"run --method vanilla --epochs 1 --train-limit 64 --attacks".split(), "",
        *f"--eval-limit 20 --track tensorboard --json --results {tmp_path}".split(),
    )  # fmt: skip
    assert ended.status == 0, ended.err
    (run,) = list_runs(tmp_path)
    assert list(run.path.rglob("events.out.tfevents.*"))


def test_a_sweep_takes_recipes_and_a_scale(call, tmp_path: Path) -> None:
    sweep = ["sweep", "--recipes", "table1/kl,table2/ikl-a20-b3", "--dry-run", "--json"]
    small, paper = (
        json.loads(call(*sweep, *scale, "--results", str(tmp_path)).out)["runs"]
        for scale in (["--scale", "small"], [])
    )
    assert [run["names"] for run in small] == [run["names"] for run in paper]
    assert {run["recipe"] for run in small} == {"digits"}
    assert {run["recipe"] for run in paper} == {"table1/kl", "table2/ikl-a20-b3"}


@pytest.mark.parametrize(("verdicts", "status"), [("." * 200, 0), ("." * 160 + "1" * 40, 1)])
def test_the_status_of_a_check_is_whether_something_got_worse(
    call, verdicts: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = regression.read_baseline(BASELINE)
    runs = [run.model_copy(update={"result": result("." * 200)}) for run in baseline.runs]
    path = tmp_path / "baseline.json"
    path.write_text(baseline.model_copy(update={"runs": tuple(runs)}).model_dump_json())
    folders = []

    def measured(expected, folder, reporter):
        folders.append(folder)
        return [result(verdicts) for _ in expected.runs]

    monkeypatch.setattr(regression, "check", measured)
    ended = call("check", "--baseline", str(path), "--keep", str(tmp_path / "kept"))
    assert (ended.status, folders) == (status, [tmp_path / "kept"])
    assert ("# Regression" in ended.out) == bool(status)


def test_the_margin_of_a_decision_is_that_of_the_command(call, attacked) -> None:
    results, run = attacked
    other = bench.train(
        "vanilla", "digits", results=results, epochs=3, seed=1, attacks="none", n=20, quiet=True
    )
    decide = ["decide", run, other.run_id, "--attacks", "", "--margin", "50%", "--json"]
    ended = call(*decide, "--results", results)
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert (found["winner"], found["rule"]["margin"]) == ("equal", 0.5)


def test_a_zoo_is_listed_with_what_its_models_need(call) -> None:
    rows = json.loads(call("list", "models", "--zoo", "--json").out)
    assert len(rows) > 200
    assert {"model", "dataset", "threat", "weights"} == set(rows[0])
