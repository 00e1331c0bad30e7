"""Training in several processes is training in one, for every method and way of splitting."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distilling
import pytest
import torch
from forking import ForkServer
from torch import nn
from typer.testing import CliRunner

from divergence_bench.cli.main import app
from harness.config import RunConfig
from harness.distributed.group import ProcessGroup
from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from harness.training.loop import _split_between

SCRIPT = Path(__file__).with_name("training_together.py")
TINY = {
    **distilling.TINY,
    # 97 images are two batches of 33 and one of 31, which processes cannot share evenly.
    "training.batch_size": 33,
    "data.train_limit": 97,
    "training.precision": "float64",
}
TEACHER = {"epochs": 1, "batch_size": 64, "precision": "float64"}
# Weight perturbation and class means; a lookahead and a network with its own optimiser; a network
# trained along; a memory of all images.
VARIED = ("ikl", "las-awp", "lbgat", "crd")


def torchrun(count: int, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, err
    return out, err


def configuration(method: str, results: Path, **options: Any) -> RunConfig:
    given = {**TINY, "results": results, **options}
    if METHODS.get(method).card.needs_teacher:
        given |= {"teacher.config": {"training": TEACHER, "data": {"train_limit": 97}}}
        given |= {"teacher.arch": "resnet8", "teacher.minimum": 0.0}
    if method in GENERATED:
        archive = results.parent / "generated.npz"
        given |= {"data.generated": archive, "data.generated_fraction": 0.5}
        given |= {"data.generated_name": "random"}
    return resolve(method, options=given)


GENERATED = ("gowal", "rebuffi", "score", "wang-dm")


# What torchrun does, in a copy of a process that has imported torch.
TOGETHER = """
import os, runpy, sys
os.environ.update(RANK="{rank}", WORLD_SIZE="{count}")
os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="{port}")
sys.argv = [{script!r}, {runs!r}]
runpy.run_path({script!r}, run_name="__main__")
sys.exit(0)
"""


def compare(
    server: ForkServer, count: int, folder: Path, cases: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    """Train each case in so many processes and in one: records and weights must be the same."""
    distilling.write_generated(folder / "generated.npz")
    alone, together = folder / "alone", folder / "together"
    configs = [configuration(name, together, **options) for name, options in cases]
    listed = folder / "runs.json"
    listed.write_text(json.dumps([config.model_dump(mode="json") for config in configs]))
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    prepared = [
        TOGETHER.format(rank=rank, count=count, port=port, script=str(SCRIPT), runs=str(listed))
        for rank in range(count)
    ]
    for ended in server.run_all(*({"arguments": [], "prepare": each} for each in prepared)):
        assert ended["code"] == 0, ended["output"]
    for config in configs:
        run(config.model_copy(update={"results": alone}), Reporter(quiet=True))
    for config in configs:
        one, many = (RunDirectory(folder, config.run_id) for folder in (alone, together))
        assert many.record["status"] == "success"
        assert many.record["provenance"]["processes"] == count
        assert one.record["provenance"]["processes"] == 1
        for ours, theirs in zip(one.epochs(), many.epochs(), strict=True):
            assert theirs["parts"] == pytest.approx(ours["parts"], rel=1e-9), config.method
            assert theirs["opening_losses"] == pytest.approx(ours["opening_losses"], rel=1e-9)
        weights = [torch.load(each.model_path)["state_dict"] for each in (one, many)]
        assert list(weights[0]) == list(weights[1])
        for name, expected in weights[0].items():
            torch.testing.assert_close(weights[1][name], expected, rtol=1e-6, atol=1e-9, msg=name)


def test_two_processes_train_as_one(server, tmp_path):
    compare(server, 2, tmp_path, [(name, {}) for name in VARIED])


def test_parts_of_a_batch_are_those_that_one_process_makes(server, tmp_path):
    split = {"training.batchnorm_replicas": 4}
    trained_in = {"training.attack.model_mode": "train"}
    compare(
        server,
        3,
        tmp_path,
        [("ikl", split), ("las-awp", split), ("trades", {**split, **trained_in})],
    )


@pytest.mark.slow
def test_every_method_trains_in_two_processes_as_in_one(server, tmp_path):
    compare(server, 2, tmp_path, [(name, {}) for name in METHODS.names()])


def command(results: Path, *more: str) -> list[str]:
    options = {
        "--method": "kl",
        "--epochs": 4,
        "--train-limit": 200,
        "--eval-limit": 20,
        "--device": "cpu",
        "--results": results,
    }
    settings = ("training.precision=float64", "training.monitor.every=0", "evaluation.attacks=[]")
    words = [str(word) for option in options.items() for word in option]
    words += [word for setting in settings for word in ("--set", setting)]
    return ["-m", "harness", "run", *words, *more]


def only_run(results: Path) -> RunDirectory | None:
    found = list((results / "runs").glob("kl-*"))
    return RunDirectory(results, found[0].name) if found else None


def after_epochs(process: subprocess.Popen[str], results: Path, count: int) -> None:
    """Wait until so many epochs of the run are on disk."""
    while process.poll() is None:
        directory = only_run(results)
        if directory is not None and len(directory.epochs()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


def first_worker(process: subprocess.Popen[str]) -> int:
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=True)
    return min(map(int, listed.stdout.split()))


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, str, str]:
    """An undisturbed run of two processes, and what they printed."""
    results = tmp_path_factory.mktemp("undisturbed")
    out, err = finished(torchrun(2, *command(results, "--json")))
    directory = only_run(results)
    assert directory is not None
    return directory, out, err


def test_only_the_first_process_prints_and_stores(printed):
    directory, out, err = printed
    (row,) = Database(directory.results).query("SELECT run_id FROM runs").itertuples(index=False)
    assert row.run_id == directory.run_id
    assert row.run_id in json.dumps(json.loads(out))
    assert "Traceback" not in err
    assert "Warning" not in err


@pytest.mark.parametrize(
    ("number", "status"), [(9, "started"), pytest.param(15, "cancelled", marks=pytest.mark.slow)]
)
def test_one_process_resumes_the_training_of_two(tmp_path, printed, number, status):
    undisturbed, *_ = printed
    process = torchrun(2, *command(tmp_path))
    after_epochs(process, tmp_path, 2)
    os.kill(first_worker(process) if number == signal.SIGKILL else process.pid, number)
    process.communicate(timeout=60)
    resumed = only_run(tmp_path)
    assert resumed is not None
    assert resumed.record["status"] == status
    CliRunner().invoke(app, command(tmp_path)[2:], catch_exceptions=False)
    assert resumed.run_id == undisturbed.run_id
    for one, two in zip(resumed.epochs(), undisturbed.epochs(), strict=True):
        assert one["parts"] == pytest.approx(two["parts"], rel=1e-9)
    (stored,) = Database(tmp_path).query("SELECT status FROM runs").itertuples(index=False)
    assert stored.status == "success"


def test_a_batch_with_too_few_parts_is_refused():
    one_image = SimpleNamespace(smallest_batch=1)
    with pytest.raises(UserError, match="a batch of 1 images has 1 parts, too few for 2 processes"):
        _split_between(nn.Linear(1, 1), RunConfig(method="kl"), one_image, ProcessGroup(0, 2))


def test_processes_share_only_a_run(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="torchrun started 2 processes, which only `run` supports"):
        CliRunner().invoke(app, ["list", "methods"], catch_exceptions=False)
