"""SIGINT and SIGTERM: finished work is kept, the run is cancelled, the exit status is specific."""

import signal

import pytest

from harness.store.database import Database
from harness.store.rundir import list_runs
from tests.faults.conftest import RUN, assert_same_result

MOMENTS = {
    "training": "runs/*/checkpoints/last.pt",
    "evaluation": "runs/*/evaluations/*/chunks/00000.parquet",
}


@pytest.mark.parametrize(
    ("number", "code", "phase"),
    [
        (signal.SIGINT, 130, "training"),
        (signal.SIGTERM, 143, "evaluation"),
        pytest.param(signal.SIGINT, 130, "evaluation", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "training", marks=pytest.mark.slow),
    ],
)
def test_a_signal_cancels_and_the_same_command_goes_on(
    number, code, phase, server, undisturbed, tmp_path
):
    command = [*RUN, "--results", str(tmp_path)]
    ended = server.run(command, until=str(tmp_path / MOMENTS[phase]), signal=int(number))
    assert ended["code"] == code, ended["output"]
    assert ended["output"].endswith("interrupted: the same command continues from here\n")
    assert "Traceback" not in ended["output"]
    (run,) = list_runs(tmp_path)
    assert run.record["status"] == "cancelled"
    assert Database(tmp_path).query("SELECT status FROM runs")["status"].tolist() == ["cancelled"]
    assert run.checkpoint_path.exists()
    statuses = [evaluation.record["status"] for evaluation in run.evaluations()]
    assert statuses == ([] if phase == "training" else ["cancelled"])
    before = run.record["wall_s"]
    server.succeed(command)
    assert_same_result(tmp_path, undisturbed)
    # The time of all parts of the work, which a query finds too.
    assert run.record["wall_s"] > before > 0
    stored = Database(tmp_path).query("SELECT wall_s FROM runs")["wall_s"].tolist()
    assert stored == [run.record["wall_s"]]


def test_a_signal_to_the_group_leaves_no_worker_and_loses_no_chunk(server, tmp_path):
    command = [*RUN, "--results", str(tmp_path), "--workers", "2"]
    until = str(tmp_path / MOMENTS["evaluation"])
    ended = server.run(command, until=until, signal=int(signal.SIGTERM), group=True)
    assert ended["code"] == 143, ended["output"]
    (run,) = list_runs(tmp_path)
    assert run.record["status"] == run.evaluations()[0].record["status"] == "cancelled"
    assert run.evaluations()[0].finished_chunks()
    assert not ended["left"], "a process of the group still runs"
