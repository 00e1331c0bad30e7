"""The regression check: what passes, what fails, and its messages."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from planted_faults import FAULTS
from typer.testing import CliRunner

from divergence_bench.cli import check as check_verb
from divergence_bench.cli.main import app
from harness.config import EvalConfig
from harness.data import load_dataset
from harness.errors import UserError
from harness.evaluation.attack.executors import num_threads
from harness.experiment import regression as gate
from harness.experiment.regression import (
    Baseline,
    Result,
    compare,
    configs,
    measure_golden,
    read_baseline,
)
from harness.progress import Reporter
from harness.registry import METHODS

ROOT = Path(__file__).parents[3]
BASELINE = ROOT / "results" / "baselines" / "digits.json"
QUIET = Reporter(quiet=True)
# For each fault, the run of the committed baseline whose golden losses show it.
SHOWN_BY = {
    "class means not updated": "ikl",
    "epsilon not ramped": "kl",
    "teacher not frozen": "kd",
    "arguments of KL swapped": "trades",
    "temperature forgotten": "ikl",
    "weight perturbation not restored": "kl",
}


# The rule


PROTOCOL = {**EvalConfig(eps=0.1).identity_payload(), "data_sha256": "images"}


def result(
    verdicts: str,
    losses: tuple[float, ...] = (2.0, 1.0),
    margin: float = 0.5,
    attack_version: str = "v",
    index_sha256: str = "rows",
    **protocol: Any,
) -> Result:
    return Result(
        losses=losses, margin=margin, verdicts=verdicts, index_sha256=index_sha256, run_id="r",
        attack_version=attack_version, protocol={**PROTOCOL, **protocol},
    )  # fmt: skip


def compared(then: Result, now: Result | str) -> gate.Checked:
    baseline = Baseline.model_validate({"runs": [{"name": "a", "method": "m", "result": then}]})
    return compare(baseline, baseline.runs[0], now)


def test_the_same_result_and_rounding_are_no_regression():
    found = compared(result("..x1" * 50), result("..x1" * 50))
    assert found.worse == found.better == ()
    assert found.golden.difference == 0
    assert found.accuracies["robust"].difference == 0
    assert compared(result("..."), result("...", (2.0001, 0.99995), 0.50001)).worse == ()


def test_a_clear_drop_is_a_regression_and_reports_its_size():
    found = compared(result("." * 160 + "1" * 40), result("." * 140 + "1" * 60))
    (text,) = found.worse
    assert "robust accuracy fell by 10.00 points" in text
    assert "20 images lost, 0 gained, McNemar p = 1.9e-06" in text
    clean = compared(result("." * 200), result("." * 180 + "x" * 20))
    assert len(clean.worse) == 2
    rose = compared(result("." * 140 + "1" * 60), result("." * 160 + "1" * 40))
    assert rose.worse == ()
    assert "rose by 10.00" in rose.better[0]


def test_a_drop_within_the_margin_or_within_randomness_passes():
    # 2 points: 8 of 400 images were lost and none gained (p = 0.008).
    assert compared(result("." * 400), result("." * 392 + "1" * 8)).worse == ()
    # 5 points of 100 images: 13 lost, 8 gained (p = 0.38).
    then = result("." * 13 + "1" * 8 + "." * 79)
    assert compared(then, result("1" * 13 + "." * 8 + "." * 79)).worse == ()


@pytest.mark.parametrize(
    ("losses", "margin", "message"),
    [
        ((2.0, 1.1), 0.5, "loss of step 2 of 2 is 1.1, in the baseline 1"),
        ((2.0, float("nan")), 0.5, "loss of step 2 of 2 is nan"),
        ((2.0, 1.0), 0.4, "mean margin of the resulting model is 0.4"),
        ((2.0,), 0.5, "a different number of steps"),
    ],
)
def test_another_computation_is_a_regression(losses, margin, message):
    (text,) = compared(result("..."), result("...", losses, margin)).worse
    assert message in text


def test_a_run_that_fails_and_other_images_are_regressions():
    assert compared(result("..."), "ValueError: no").worse == ("it failed: ValueError: no",)
    for other in (result("...."), result("...", index_sha256="x"), result("...", data_sha256="x")):
        (text,) = compared(result("..."), other).worse
        assert "different images" in text
        assert "--update" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norm": "L2"}, "norm differs (baseline Linf, now L2)"),
        ({"eps": 0.2}, "eps differs (baseline 0.1, now 0.2)"),
        ({"seed": 3}, "seed differs (baseline 0, now 3)"),
        ({"chunk_size": 10}, "chunk_size differs (baseline 250, now 10)"),
        ({"attacks": ["square"]}, "now ['square'])"),
        ({"attack_version": "w"}, "attack_version differs (baseline v, now w)"),
        ({"precision": "bf16", "eps": 0.2}, "now bf16); eps differs (baseline 0.1, now 0.2)"),
    ],
)
def test_verdicts_by_another_protocol_are_not_compared(changed, message):
    then, now = result("." * 200), result("." * 150 + "1" * 50, **changed)
    found = compared(then, now)
    (text,) = found.worse
    assert text.startswith("different protocol: ")
    assert message in text
    assert text.endswith(": update the baseline with --update --reason")
    assert found.accuracies == {}
    assert compared(now, now).worse == ()


def test_a_baseline_without_its_protocol_is_another_protocol():
    stored = result("...").model_dump(exclude={"protocol"})
    (text,) = compared(Result.model_validate(stored), result("...")).worse
    assert "eps differs (baseline unknown, now 0.1)" in text


def test_the_report_leads_with_what_got_worse_and_names_another_environment():
    baseline = Baseline.model_validate(
        {
            "runs": [{"name": "a", "method": "m", "result": result("." * 200)}],
            "environment": {**gate.environment(), "torch": "1.0"},
        }
    )
    found = [compare(baseline, baseline.runs[0], result("." * 150 + "1" * 50))]
    text = check_verb.markdown(baseline, found)
    assert text.startswith("# Regression\n\n- **a**: robust accuracy fell by 25.00 points")
    assert "- torch: 1.0 in the baseline," in text
    assert "- numpy" not in text
    assert "| a | 0.0e+00 | 100.00 |" in text
    assert json.loads(json.dumps(gate.to_json(baseline, found)))["regression"]


def test_a_result_keeps_the_protocol_that_was_evaluated(tmp_path):
    tiny = {"training.epochs": 1, "data.train_limit": 32, "evaluation.limit": 20}
    baseline = Baseline.model_validate(
        {
            "golden": {**gate.DEFAULT_GOLDEN, **tiny},
            "benchmark": {**gate.DEFAULT_BENCHMARK, **tiny, "evaluation.eps": 0.05},
            "runs": [{"name": "a", "method": "pgd-at"}],
        }
    )
    found = gate.measure(baseline, baseline.runs[0], tmp_path, QUIET)
    _, benchmark = configs(baseline, baseline.runs[0], tmp_path)
    assert found.protocol["eps"] == 0.05
    assert found.protocol == {
        **benchmark.evaluation.identity_payload(),
        "data_sha256": load_dataset("digits").test.sha256,
    }


# The committed baseline


def test_the_committed_baseline_is_complete(tmp_path):
    baseline = read_baseline(BASELINE)
    assert [run.name for run in baseline.runs] == [
        "kl", "dkl", "ikl", "trades", "kd", "dkd", "ikl-kd",
    ]  # fmt: skip
    assert BASELINE.stat().st_size < 30_000
    assert baseline.history
    images = {"data_sha256": load_dataset("digits").test.sha256}
    for run in baseline.runs:
        assert run.result is not None
        _, benchmark = configs(baseline, run, tmp_path)
        assert run.result.protocol == benchmark.evaluation.identity_payload() | images
        assert len(run.result.losses) >= 12
        assert len(run.result.verdicts) == 360
        # Neither all right nor all wrong, so that accuracies can fall and rise.
        robust = run.result.verdicts.count(".") / 360
        assert 0.3 < robust < 1
        assert 0.85 < 1 - run.result.verdicts.count("x") / 360 < 1


def golden(name: str, folder: Path) -> gate.Golden:
    """The golden losses of one run of the committed baseline, measured now."""
    baseline = read_baseline(BASELINE)
    (run,) = (run for run in baseline.runs if run.name == name)
    assert run.result is not None
    config, _ = configs(baseline, run, folder)
    losses, margin = measure_golden(config, QUIET)
    found = run.result.model_copy(update={"losses": losses, "margin": margin})
    return gate.compare_golden(run.result, found, baseline.loss_tolerance)


def test_golden_losses_are_those_of_the_baseline(tmp_path):
    assert golden("ikl", tmp_path).step is None


FAST = "class means not updated"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FAULTS if name != FAST]


@pytest.mark.parametrize("name", [FAST, *SLOW])
def test_the_golden_losses_show_every_planted_fault(name, tmp_path, monkeypatch):
    FAULTS[name](monkeypatch)
    assert golden(SHOWN_BY.get(name, "ikl"), tmp_path).step is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FAULTS)
def test_the_check_fails_under_every_planted_fault(name, tmp_path, monkeypatch):
    FAULTS[name](monkeypatch)
    baseline = read_baseline(BASELINE)
    found = gate.check(baseline, tmp_path, QUIET)
    assert not any(isinstance(each, str) for each in found), "the fault must not stop a run"
    worse = {
        run.name: compare(baseline, run, each).worse
        for run, each in zip(baseline.runs, found, strict=True)
    }
    print(json.dumps({name: worse}, indent=1))
    assert any(worse.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_check_passes_unchanged(tmp_path):
    baseline = read_baseline(BASELINE)
    found = gate.check(baseline, tmp_path, QUIET)
    for run, each in zip(baseline.runs, found, strict=True):
        assert compare(baseline, run, each).worse == ()


# The command, with a method from another package


def test_the_example_package_registers_its_method_when_it_is_installed():
    project = tomllib.loads((ROOT / "tests/example_package/pyproject.toml").read_text())["project"]
    assert list(project["entry-points"]["harness.methods"]) == ["example-margin"]
    assert "example-margin" not in METHODS.names()


@pytest.mark.slow
def test_a_method_of_another_distribution_is_checked(tmp_path):
    site, source, path = tmp_path / "site", tmp_path / "source", tmp_path / "mine.json"
    shutil.copytree(ROOT / "tests" / "example_package", source)
    install = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *install, str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "check", "--baseline", str(path), *options]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
        )

    tiny: dict[str, Any] = {
        "golden": {**gate.DEFAULT_GOLDEN, "data.train_limit": 64},
        "benchmark": {
            "training.epochs": 1,
            "data.train_limit": 64,
            "training.monitor.every": 0,
            "evaluation.limit": 20,
            "evaluation.workers": 1,
            "evaluation.attacks": ["apgd-ce"],
        },
        "runs": [{"name": "mine", "method": "example-margin"}],
    }
    path.write_text(json.dumps(tiny))
    made = check("--update", "--reason", "first")
    assert made.returncode == 0, made.stderr
    assert read_baseline(path).history[0]["reason"] == "first"
    module = site / "example_margin.py"
    module.write_text(module.read_text().replace(".square().mean()", ".mean()"))
    failed = check("--json")
    assert failed.returncode == 1, failed.stderr
    (run,) = json.loads(failed.stdout)["runs"]
    assert "training computes something different: the loss of step 1" in run["worse"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update"], "needs a reason"),
        (["--reason", "x"], "needs a reason"),
        (["--methods", "kl"], "makes a new baseline"),
        (["--baseline", "no-such.json"], "no-such.json"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message):
    ended = CliRunner().invoke(app, ["check", *arguments])
    assert isinstance(ended.exception, UserError)
    assert message in str(ended.exception)


def test_the_workflows_use_the_command():
    folder = ROOT / ".github" / "workflows"
    own, reusable = (
        yaml.safe_load((folder / name).read_text()) for name in ("check.yml", "check-method.yml")
    )
    # YAML 1.1 reads the key `on` as true.
    assert set(reusable[True]["workflow_call"]["inputs"]) >= {"package", "baseline", "harness"}
    for workflow in (own, reusable):
        commands = [step.get("run", "") for step in workflow["jobs"]["check"]["steps"]]
        assert any("-m harness check --baseline" in command for command in commands)
        # The shell would execute an input placed in a command.
        assert not any("${{" in command for command in commands)


def test_the_check_computes_on_one_thread_whatever_the_machine_has(monkeypatch, tmp_path):
    baseline = read_baseline(BASELINE)
    seen: list[int] = []
    monkeypatch.setattr(gate, "measure", lambda *_: seen.append(torch.get_num_threads()))
    with num_threads(2):
        gate.check(baseline, tmp_path, QUIET)
        assert torch.get_num_threads() == 2
        assert gate.environment()["num_threads"] == baseline.environment["num_threads"] == 1
    assert set(seen) == {1}
