"""Calls of the command line in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from divergence_bench.cli.main import main


class Ended(NamedTuple):
    """How a call ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs the command line in this process, on a terminal or in a pipe of that many columns."""

    def run(*arguments: str, columns: int = 100) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        monkeypatch.setenv("COLUMNS", str(columns))
        status = 0
        try:
            main()
        except SystemExit as ending:
            status = int(ending.code or 0)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run
