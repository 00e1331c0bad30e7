"""kill -9 in training and in the attacks, and Ctrl-C: the same command gives the same result."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness.store.rundir import RunDirectory, list_runs

COMMAND = [
    sys.executable, "-m", "harness", "run", "--method", "ikl", "--device", "cpu",
    "--epochs", "4", "--train-limit", "400", "--eval-limit", "60", "--eps", "0.1",
    "--attacks", "apgd-ce,apgd-t", "--set", "evaluation.chunk_size=20",
    "--set", "training.weight_perturbation.start_epoch=2",
]  # fmt: skip


def start(results: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *more, "--results", str(results)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        # A shell starts what runs in the background with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(
    process: subprocess.Popen[bytes], results: Path, ready: Callable[[RunDirectory], bool]
) -> None:
    """Return as soon as the run directory of the started command is ``ready``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be stopped"
        runs = list_runs(results) if (results / "runs").exists() else []
        if runs and ready(runs[0]):
            return
        time.sleep(0.01)
    process.kill()
    raise AssertionError("the moment to stop it never came")


def kill_when(results: Path, ready: Callable[[RunDirectory], bool]) -> None:
    """Start the command and kill it as soon as its run directory is ``ready``."""
    process = start(results)
    wait_until(process, results, ready)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finish(results: Path, *more: str) -> RunDirectory:
    process = start(results, *more)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    (run,) = list_runs(results)
    assert run.record["status"] == "success"
    return run


def chunks(run: RunDirectory) -> int:
    return sum(len(evaluation.finished_chunks()) for evaluation in run.evaluations())


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Process numbers of a command's evaluation workers."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == process.pid and "spawn_main" in row[2]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """An undisturbed run, which no test changes."""
    return finish(tmp_path_factory.mktemp("whole"))


def test_a_run_killed_twice_equals_an_undisturbed_one(tmp_path: Path, whole: RunDirectory) -> None:
    kill_when(tmp_path / "killed", lambda run: len(run.epochs()) == 2)
    halted = list_runs(tmp_path / "killed")[0]
    assert halted.record["status"] == "started"
    assert not halted.model_path.exists()
    kill_when(tmp_path / "killed", lambda run: 1 <= chunks(run) < 3)
    killed = finish(tmp_path / "killed")

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


def test_ctrl_c_ends_all_workers_and_the_same_command_finishes(
    tmp_path: Path, whole: RunDirectory
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(whole.path, tmp_path / "runs" / whole.run_id)
    shutil.rmtree(tmp_path / "runs" / whole.run_id / "evaluations")
    process = start(tmp_path, "--workers", "2")
    wait_until(process, tmp_path, lambda run: chunks(run) == 1)
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert b"the same command goes on" in errors
    assert workers
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
    (interrupted,) = list_runs(tmp_path)
    assert interrupted.record["status"] == "cancelled"
    assert 1 <= chunks(interrupted) < 3
    finished = finish(tmp_path, "--workers", "2")
    tables = [pd.read_parquet(run.evaluations()[0].verdicts_path) for run in (finished, whole)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
