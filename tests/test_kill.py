"""kill -9 in training, then in the attacks: the same command still gives the same result."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from harness.store.rundir import RunDirectory, list_runs

COMMAND = [
    sys.executable, "-m", "harness", "run", "--method", "ikl", "--device", "cpu",
    "--epochs", "4", "--train-limit", "400", "--eval-limit", "60", "--eps", "0.1",
    "--attacks", "apgd-ce,apgd-t", "--set", "evaluation.chunk_size=20",
    "--set", "training.weight_perturbation.start_epoch=2",
]  # fmt: skip


def start(results: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, "--results", str(results)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def kill_when(results: Path, ready: Callable[[RunDirectory], bool]) -> None:
    """Start the command and kill it as soon as its run directory is ``ready``."""
    process = start(results)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        runs = list_runs(results) if (results / "runs").exists() else []
        if runs and ready(runs[0]):
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError("the moment to kill never came")


def finish(results: Path) -> RunDirectory:
    process = start(results)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    (run,) = list_runs(results)
    assert run.record["status"] == "success"
    return run


def chunks(run: RunDirectory) -> int:
    return sum(len(evaluation.finished_chunks()) for evaluation in run.evaluations())


def test_a_run_killed_twice_equals_an_undisturbed_one(tmp_path: Path) -> None:
    kill_when(tmp_path / "killed", lambda run: len(run.epochs()) == 2)
    halted = list_runs(tmp_path / "killed")[0]
    assert halted.record["status"] == "started"
    assert not halted.model_path.exists()
    kill_when(tmp_path / "killed", lambda run: 1 <= chunks(run) < 3)
    killed, whole = finish(tmp_path / "killed"), finish(tmp_path / "whole")

    assert [record["epoch"] for record in killed.epochs()] == [1, 2, 3, 4]
    weights = [
        torch.load(run.model_path, weights_only=True)["state_dict"] for run in (killed, whole)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    tables = [pd.read_parquet(run.evaluations()[0].verdicts_path) for run in (killed, whole)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    assert len(tables[0]) == tables[0]["index"].nunique() == 60
    assert killed.evaluations()[0].record["metrics"] == whole.evaluations()[0].record["metrics"]
