"""The contract that every registered method keeps, whatever it computes."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness.config import EvalConfig, RunConfig
from harness.experiment import runner
from harness.experiment.resolve import resolve
from harness.experiment.runner import evaluate_run, run
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory

TINY = {
    "training.epochs": 2,
    "training.batch_size": 32,
    "data.train_limit": 96,
    "evaluation.limit": 20,
    "evaluation.attacks": ("apgd-ce",),
    "training.monitor.images": 20,
    "training.monitor.pgd_steps": 2,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for all methods that need a teacher."""
    options = {**TINY, "evaluation.attacks": (), "results": tmp_path_factory.mktemp("teacher")}
    config = resolve("vanilla", options=options)
    run(config, Reporter(quiet=True))
    return RunDirectory(config.results, config.run_id).model_path


def tiny_config(method: str, results: Path, teacher: Path) -> RunConfig:
    options: dict[str, Any] = {**TINY, "results": results}
    if METHODS.get(method).card.needs_teacher:
        options |= {"teacher.arch": "resnet8", "teacher.source": str(teacher)}
        options |= {"teacher.minimum": 0.0}
    return resolve(method, options=options)


def tiny_run(method: str, results: Path, teacher: Path) -> RunDirectory:
    config = tiny_config(method, results, teacher)
    run(config, Reporter(quiet=True))
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
    stopped = stop_after_first_epoch(name, tmp_path / "stopped", teacher)
    resumed = tiny_run(name, tmp_path / "stopped", teacher)
    assert resumed.run_id == stopped
    weights = [
        torch.load(run.model_path, weights_only=True)["state_dict"] for run in (whole, resumed)
    ]
    assert weights[0].keys() == weights[1].keys()
    for key in weights[0]:
        assert torch.equal(weights[0][key], weights[1][key]), key
    losses = [[record["loss"] for record in run.epochs()] for run in (whole, resumed)]
    assert losses[0] == losses[1]


def stop_after_first_epoch(name: str, results: Path, teacher: Path) -> str:
    config = tiny_config(name, results, teacher)

    class Stop(Reporter):
        def line(self, text: str) -> None:
            if text.startswith("epoch 1/"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, Stop(quiet=True))
    directory = RunDirectory(results, config.run_id)
    assert directory.record["status"] == "cancelled"
    assert not directory.model_path.exists()
    return config.run_id


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), RuntimeError("out of patience")])
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
        evaluate_run(finished, other, None, "cpu", Reporter(quiet=True))
    assert finished.record == before
    assert Database(tmp_path).query("SELECT status FROM runs")["status"].tolist() == ["success"]
