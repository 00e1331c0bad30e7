"""Progress of a run where there is no terminal."""

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

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
    assert capsys.readouterr().err == "train epoch 1/2: step 60 of 100, about 40 s left\n"


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


def test_lines_are_log_records_where_a_program_listens_and_else_are_printed(caplog, capsys):
    Reporter().line("one")
    Reporter(quiet=True).line("two")
    with caplog.at_level("INFO", logger="harness"):
        Reporter().line("three")
        Reporter(quiet=True).line("four")
    assert capsys.readouterr().err == "one\n"
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
        ("harness", "INFO", "three"),
        ("harness", "INFO", "four"),
    ]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook's display shows, one text a change."""
    texts: list[str] = []
    handle = SimpleNamespace(update=lambda content: texts.append(content.data))

    def display(content: Any, display_id: bool) -> SimpleNamespace:
        texts.append(content.data)
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    return texts


def test_a_notebook_has_a_bar_that_goes_away(clock, shown):
    reporter = Reporter()
    reporter.console = Console(force_jupyter=True)
    with reporter.stage("train <a>", 10) as stage:
        for step in range(1, 11):
            clock[0] += 0.125  # and the bar moves every 0.2 s
            stage.update(step, f"epoch {step}")
    *bars, last = [text.partition("</progress> ")[2] for text in shown]
    left = {2: 1, 4: 1, 6: 0, 8: 0, 10: 0}
    steps = [
        f"{10 * step}% train &lt;a&gt; epoch {step}, about {seconds} s left"
        for step, seconds in left.items()
    ]
    assert bars == ["0% train &lt;a&gt;", *steps]
    assert last == ""


def test_a_quiet_notebook_shows_nothing(shown):
    reporter = Reporter(quiet=True)
    reporter.console = Console(force_jupyter=True, quiet=True)
    with reporter.stage("train", 10) as stage:
        stage.update(10)
    assert shown == []
