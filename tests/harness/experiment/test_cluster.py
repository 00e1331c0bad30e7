"""Chunks and runs as tasks on local Ray: the same results, even if its processes die."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import unreliable
from torch import nn
from typer.testing import CliRunner
from unreliable import Dying, Failing

from divergence_bench.cli.main import app
from harness.config import AttackBudget, EvalConfig
from harness.data import ImageSet, load_dataset
from harness.distributed.ray_cluster import Cluster, connected
from harness.errors import UserError
from harness.evaluation.attack.executors import ChunkExecutor
from harness.evaluation.attack.ray_executor import ray_executor
from harness.evaluation.driver import EvaluationResult, evaluate
from harness.experiment.cluster import run_missing_on
from harness.experiment.sweep import Item, SweepSpec, plan, rows, run_missing
from harness.progress import Reporter
from harness.store.database import Database
from harness.store.rundir import RunDirectory

CPU = torch.device("cpu")
SHORT = AttackBudget(n_iter=5)
CONFIG = EvalConfig(eps=0.13, attacks=("apgd-ce",), chunk_size=15, limit=60, budget=SHORT)
LOCAL = Cluster("local")
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="class")
def executor() -> Iterator[ChunkExecutor]:
    """An executor on local Ray whose processes can import the models' module."""
    paths = [str(Path(unreliable.__file__).parent), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        with ray_executor(LOCAL) as executor:
            yield executor


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_dataset("digits").test


def attacked(
    model: nn.Module,
    digits: ImageSet,
    results: Path,
    executor: ChunkExecutor | None = None,
    **changes: object,
) -> EvaluationResult:
    run = RunDirectory.create(results, "r")
    run.update(kind="loaded", dataset="digits")
    shares: list[float] = []
    (found,) = evaluate(
        model,
        digits,
        CONFIG.model_copy(update=changes),
        run,
        device=CPU,
        executor=executor,
        progress=lambda share, _: shares.append(share),
    )
    assert shares == sorted(shares)
    return found


class TestChunks:
    def test_verdicts_and_images_are_the_same_though_processes_die(
        self, executor, digits, tmp_path
    ):
        deaths = tmp_path / "deaths"
        deaths.mkdir()
        model = Dying(deaths, 2).eval()
        kept = {"save_adversarial": "float32"}
        alone = attacked(model, digits, tmp_path / "alone", **kept)
        shared = attacked(model, digits, tmp_path / "ray", executor, **kept)
        assert len(list(deaths.iterdir())) >= 2
        pd.testing.assert_frame_equal(shared.verdicts, alone.verdicts, check_exact=True)
        folders = [
            RunDirectory(tmp_path / name, "r").evaluation(alone.evaluation_id).chunks_path
            for name in ("alone", "ray")
        ]
        names = sorted(path.name for path in folders[0].glob("*.npy"))
        assert len(names) == 4
        for name in names:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()

    def test_an_error_of_a_task_ends_the_evaluation(self, executor, digits, tmp_path):
        failing = Failing(ArithmeticError, "not here").eval()
        with pytest.raises(ArithmeticError, match="not here"):
            attacked(failing, digits, tmp_path, executor, chunk_size=60)

    def test_a_task_that_always_dies_ends_the_evaluation(self, executor, digits, tmp_path):
        deaths = tmp_path / "deaths"
        deaths.mkdir()
        with pytest.raises(UserError, match=r"ended 4 times .* repeat the command"):
            attacked(Dying(deaths, 1000).eval(), digits, tmp_path, executor, chunk_size=60)
        assert len(list(deaths.iterdir())) == 4

    @pytest.mark.parametrize(
        ("task", "device"), [("cpus=100", "cpu"), ("memory=100000", "cpu"), ("gpus=99", "cuda")]
    )
    def test_a_task_larger_than_this_machine_is_refused(self, executor, task, device):
        """Ray itself would wait for a node with enough resources."""
        cluster = Cluster.parse("local", task)
        match = rf"a task needs .*{task}.*: lower --task, or choose another --device"
        with pytest.raises(UserError, match=match):
            cluster.options(executor._ray, device)

    def test_a_cluster_that_may_grow_says_that_tasks_wait(self, executor, caplog):
        cluster = Cluster("auto", cpus=100)
        assert cluster.options(executor._ray, "cpu")["num_cpus"] == 100
        assert "cpus=100,gpus=0, but no node" in caplog.text


def planned(results: Path) -> list[Item]:
    tiny = {
        "training.epochs": 1,
        "training.monitor.every": 0,
        "data.train_limit": 96,
        "evaluation.limit": 12,
        "evaluation.attacks": ["apgd-ce"],
        "evaluation.budget.n_iter": 5,
    }
    teacher = {"training": {"epochs": 1}, "data": {"train_limit": 64}}
    distilled = {"teacher.arch": "resnet8", "teacher.minimum": 0.0, "teacher.config": teacher}
    runs = ({"method": "vanilla"}, {"method": "trades"}, {"method": "kd", "set": distilled})
    return plan(rows(SweepSpec(runs=runs, set=tiny), {"results": results, "device": "cpu"}))


def test_a_sweep_on_ray_stores_what_it_stores_without(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    items = planned(there)
    broken = items[1].config
    # A folder in place of the weights makes this run fail; the others continue.
    RunDirectory(there, broken.run_id).model_path.mkdir(parents=True)
    failures = run_missing_on(Cluster("local", cpus=1), items, QUIET)
    assert [failure.run_id for failure in failures] == [broken.run_id]
    assert run_missing(planned(here), QUIET) == []
    sql = "SELECT run_id, name, value FROM runs JOIN metrics USING (run_id) ORDER BY ALL"
    stored = [Database(results).query(sql) for results in (here, there)]
    timed = "sec|memory"
    expected, found = (
        answer[~answer["name"].str.contains(timed) & (answer["run_id"] != broken.run_id)]
        for answer in stored
    )
    assert len(expected) > 0
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), expected.reset_index(drop=True), check_exact=True
    )
    states = Database(there).query("SELECT run_id, status FROM runs").set_index("run_id")["status"]
    assert states.pop(broken.run_id) == "error"
    assert set(states) == {"success"}
    assert {item.state for item in planned(there) if item.config.run_id != broken.run_id} == {
        "done"
    }


def test_a_wrong_resource_is_refused(monkeypatch):
    wrong = ["cpus=0", "cpus=1.5", "disks=3", "cpus", "memory=-1", "gpus=-1", "gpus=inf"]
    wrong += ["memory=inf", "memory=nan", "memory=1e308", f"cpus={10**400}"]
    for task in wrong:
        with pytest.raises(UserError, match="is invalid: write cpus=4"):
            Cluster.parse("local", task)
    assert Cluster.parse("auto", "cpus=4, gpus=0.5,memory=16") == Cluster("auto", 4, 0.5, 16)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'divergence-bench\[cluster\]'"):
        connected(LOCAL).__enter__()


@pytest.mark.parametrize(
    ("address", "environment", "reason"),
    [
        ("127.0.0.1:{port}", None, "Connection refused"),
        ("ray://localhost:{port}", None, "Connection refused"),
        # Without the environment variable, `auto` would find any Ray on this machine.
        ("auto", "127.0.0.1:{port}", "Connection refused"),
        ("localhost", None, "not have the form host:port"),
        ("localhost:six", None, "six"),
    ],
)
def test_a_cluster_that_does_not_answer_is_refused(address, environment, reason, monkeypatch):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment.format(port=port))
    cluster = Cluster(address.format(port=port))
    with pytest.raises(UserError, match=rf"{reason}.*give --cluster local"), connected(cluster):
        pass


def test_a_task_without_a_cluster_is_refused():
    with pytest.raises(UserError, match="give --cluster as well"):
        CliRunner().invoke(
            app, ["run", "--method", "vanilla", "--task", "cpus=2"], catch_exceptions=False
        )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_runs_of_a_sweep_in_order(number, status, tmp_path):
    command = [sys.executable, "-m", "harness", "sweep", "--methods", "vanilla,trades"]
    command += ["--set", "training.epochs=1000", "--cluster", "local", "--results", str(tmp_path)]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        while process.poll() is None and len(list(tmp_path.glob("runs/*/checkpoints/last.pt"))) < 2:
            time.sleep(0.1)
        process.send_signal(number)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == status, errors
    assert "the same command continues from here" in errors
    states = Database(tmp_path).query("SELECT status FROM runs")["status"]
    assert states.tolist() == ["cancelled", "cancelled"]
