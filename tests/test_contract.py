"""The contract that every registered method must satisfy."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from distilling import TINY, Lines, assert_same_weights, trained

from harness.config import EvalConfig, RunConfig
from harness.experiment import runner
from harness.experiment.resolve import resolve
from harness.experiment.runner import evaluate_run, run
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory

QUIET = Reporter(quiet=True)
CHECKED = {
    "evaluation.attacks": ("apgd-ce",),
    "evaluation.budget.n_iter": 5,
    "evaluation.accelerate": False,
    "training.monitor.every": 1,
    "training.monitor.images": 20,
    "training.monitor.pgd_steps": 2,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of a teacher for all methods that need one."""
    return trained(tmp_path_factory.mktemp("teacher"), "vanilla").model_path


def tiny_config(method: str, results: Path, teacher: Path) -> RunConfig:
    options: dict[str, Any] = {**TINY, **CHECKED, "results": results}
    if METHODS.get(method).card.needs_teacher:
        options |= {"teacher.arch": "resnet8", "teacher.source": str(teacher)}
        options |= {"teacher.minimum": 0.0}
    return resolve(method, options=options)


def tiny_run(method: str, results: Path, teacher: Path) -> RunDirectory:
    config = tiny_config(method, results, teacher)
    run(config, QUIET)
    return RunDirectory(results, config.run_id)


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_trains_is_evaluated_and_resumes(name, tmp_path, teacher):
    whole = tiny_run(name, tmp_path / "whole", teacher)
    assert whole.record["status"] == "success"
    epochs = whole.epochs()
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert all(torch.isfinite(torch.tensor(record["loss"])) for record in epochs)
    (evaluation,) = whole.evaluations()
    verdicts = pd.read_parquet(evaluation.verdicts_path)
    assert len(verdicts) == verdicts["index"].nunique() == 20
    assert {"clean", "apgd-ce", "robust"} <= set(evaluation.record["metrics"])

    # A run that stopped after its first epoch ends with the same weights and the same numbers.
    config = tiny_config(name, tmp_path / "stopped", teacher)
    with pytest.raises(KeyboardInterrupt):
        run(config, Lines("epoch 1/"), index=False)
    stopped = RunDirectory(config.results, config.run_id)
    assert stopped.record["status"] == "cancelled"
    assert not stopped.model_path.exists()
    # Comparing the weights is enough: attacks on equal weights give equal results.
    clean = EvalConfig(attacks=(), limit=20, accelerate=False)
    run(config.model_copy(update={"evaluation": clean}), QUIET, index=False)
    assert_same_weights(whole, stopped)
    assert [record["loss"] for record in stopped.epochs()] == [each["loss"] for each in epochs]


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), RuntimeError("stop")])
def test_a_further_evaluation_that_fails_leaves_the_result_one(
    ending, tmp_path, teacher, monkeypatch
):
    finished = tiny_run("vanilla", tmp_path, teacher)
    before = finished.record

    def fail(*args: Any, **named: Any) -> None:
        raise ending

    monkeypatch.setattr(runner, "evaluate", fail)
    other = EvalConfig(eps=0.05, attacks=("apgd-ce",), limit=12)
    with pytest.raises(type(ending)):
        evaluate_run(finished, other, None, "cpu", QUIET)
    assert finished.record == before
    assert Database(tmp_path).query("SELECT status FROM runs")["status"].tolist() == ["success"]
