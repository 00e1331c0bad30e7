"""Step times: which steps count, their median and its interval."""

import math
from types import SimpleNamespace

import pytest
import torch
from distilling import Lines, trained
from torch import nn

from harness.experiment.runner import training_metrics
from harness.store.rundir import RunDirectory
from harness.training import step_timer as timing
from harness.training.loop import Selected
from harness.training.step_timer import StepTimer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time in seconds, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def timed(timer: StepTimer, clock: list[float], *seconds: float) -> None:
    for each in seconds:
        with timer.step():
            clock[0] += each


def test_steps_of_the_warm_up_count_only_where_there_are_no_others(clock):
    timer = StepTimer(torch.device("cpu"), warmup=2)
    assert math.isnan(timer.median())
    timed(timer, clock, 8, 16)
    assert timer.summary() == {"value": 12, "n": 2}
    timed(timer, clock, 1, 2, 3)
    assert timer.summary() == {"value": 2, "n": 3}


def test_a_median_of_the_last_steps_forgets_those_before(clock):
    timer = StepTimer(torch.device("cpu"), warmup=1)
    timed(timer, clock, 9, 1, 1, 1, 4, 4)
    assert timer.median() == 1
    assert timer.median(last=2) == 4
    assert timer.median(last=100) == 1


def test_a_step_that_raises_is_not_counted_and_a_restart_warms_up_again(clock):
    timer = StepTimer(torch.device("cpu"), warmup=1)
    timed(timer, clock, 9, 1, 3)
    with pytest.raises(ZeroDivisionError), timer.step():
        clock[0] += 100 / 0
    resumed = StepTimer(torch.device("cpu"), warmup=1)
    resumed.load_state(timer.state())
    timed(resumed, clock, 9, 5)
    assert resumed.state() == [1, 3, 5]


def test_the_median_of_the_last_steps_leaves_out_those_before_a_restart(clock):
    timer = StepTimer(torch.device("cpu"), warmup=2)
    timer.load_state([10, 10, 10])
    assert math.isnan(timer.median(last=4))
    timed(timer, clock, 2, 4)
    assert timer.median(last=4) == 3
    timed(timer, clock, 1, 1)
    assert timer.median(last=4) == 1
    assert timer.median() == 10


def test_the_metrics_of_training_cover_all_epochs(tmp_path):
    directory = RunDirectory.create(tmp_path, "kl-1")
    for epoch, seconds, peak in ((1, 2.0, 50.0), (2, 3.0, 70.0), (3, 4.0, 60.0)):
        record = {"epoch": epoch, "seconds": seconds, "peak_memory_mb": peak}
        directory.append_epoch(record)
    selected = Selected(nn.Identity(), 3, {"value": 0.5, "n": 9})
    metrics = training_metrics(selected, directory, 100, None)
    assert metrics == {
        "sec_per_iter": {"value": 0.5, "n": 9},
        "train_seconds": {"value": 9.0},
        "peak_memory_mb": {"value": 70.0},
    }


def test_the_step_time_of_a_resumed_run_covers_the_steps_before(tmp_path):
    options = {"training.epochs": 3, "training.batch_size": 8}
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "vanilla", Lines("epoch 2/"), **options)
    resumed = trained(tmp_path, "vanilla", **options)
    warmup = 5  # after the start, and after the restart
    assert resumed.record["metrics"]["sec_per_iter"]["n"] == 3 * 12 - 2 * warmup


def test_the_interval_is_that_of_a_fair_coin(clock):
    timer = StepTimer(torch.device("cpu"), warmup=0)
    timed(timer, clock, 5, 4, 3, 2, 1)
    assert timer.summary() == {"value": 3, "n": 5}
    timed(timer, clock, 6, 7, 8, 9, 10)
    # In ten coin tosses, at most one is heads with probability 11 / 1024 < 0.025, and at most two
    # with 56 / 1024.
    assert timer.summary() == {"value": 5.5, "n": 10, "low": 2, "high": 9}
