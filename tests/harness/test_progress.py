"""Progress of a run where there is no terminal."""

from types import SimpleNamespace

import pytest

from harness import progress
from harness.progress import PLAIN_LINE_EVERY_S, Reporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds, which a test moves."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_steps_are_counted_and_those_of_an_earlier_process_do_not_speed_the_estimate(clock, capsys):
    with Reporter().stage("train", 100) as stage:
        stage.start_at(40)
        clock[0] = PLAIN_LINE_EVERY_S / 2
        stage.update(50, "epoch 1/2")
        clock[0] = PLAIN_LINE_EVERY_S
        stage.update(60, "epoch 1/2")
    assert capsys.readouterr().err == "train epoch 1/2: 60 of 100, about 40 s left\n"


def test_shares_are_printed_in_per_cent_and_count_from_the_first(clock, capsys):
    with Reporter().stage("evaluate") as stage:
        stage.update(0.5, "clean")
        clock[0] = PLAIN_LINE_EVERY_S
        stage.update(0.6, "apgd-t")
    assert capsys.readouterr().err == "evaluate apgd-t: 60%, about 1 min 20 s left\n"


def test_nothing_is_printed_before_the_first_step_or_when_quiet(clock, capsys):
    with Reporter().stage("train", 10) as stage:
        clock[0] = PLAIN_LINE_EVERY_S
        stage.update(0)
    with Reporter(quiet=True).stage("train", 10) as stage:
        clock[0] = 3 * PLAIN_LINE_EVERY_S
        stage.update(5)
    assert capsys.readouterr().err == ""
