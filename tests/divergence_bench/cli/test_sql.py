"""The answers of ``sql`` for reading: a table where it fits, else each row vertically."""

import io

import pytest
from rich.console import Console

from divergence_bench.cli.answer_view import print_text
from divergence_bench.cli.sql import QueryResult

LONG = '{"training": {"epochs": 200, "batch_size": 128}, "name": "' + "x" * 200 + '"}'
WIDE = QueryResult(
    ("run_id", "seed", "config", "error"), (("a", 0, LONG, None), ("b", 1, LONG, None))
)


def printed(answer: QueryResult, *, width: int, terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_text(answer, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 200])
def test_rows_that_do_not_fit_are_printed_vertically(width: int) -> None:
    expected = ["-[ 1 ]-", "run_id  a", "seed    0", f"config  {LONG}", "error"]
    expected += ["-[ 2 ]-", "run_id  b", "seed    1", f"config  {LONG}", "error", "2 rows"]
    assert printed(WIDE, width=width, terminal=False) == expected
    cut = [line if len(line) <= width else line[: width - 1] + "…" for line in expected]
    assert printed(WIDE, width=width, terminal=True) == cut


@pytest.mark.parametrize("terminal", [False, True])
def test_rows_that_fit_stay_a_table(terminal: bool) -> None:
    narrow = QueryResult(("run_id", "seed"), (("a", 0), ("b" * 72, 1)))
    lines = printed(narrow, width=80, terminal=terminal)
    assert lines[0].split() == ["run_id", "seed"]
    assert lines[-2].split() == ["b" * 72, "1"]
    assert "-[ 1 ]-" in printed(narrow, width=70, terminal=terminal)


def test_the_lines_of_a_value_stand_below_each_other() -> None:
    plan = QueryResult(("key", "plan"), (("physical", "+" + "-" * 40 + "\n| scan"),))
    lines = printed(plan, width=40, terminal=False)
    assert lines[2:4] == ["plan  +" + "-" * 40, "      | scan"]
