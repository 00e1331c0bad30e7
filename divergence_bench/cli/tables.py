"""Printing of tables, accuracies and JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.config import eps_text

Row = dict[str, Any]


def new_console() -> Console:
    """Return a console without markup, emoji or highlighting, which prints text unchanged.

    Otherwise Rich would read ``[red]`` in a name as a colour and ``:warning:`` as an emoji.
    """
    return Console(markup=False, emoji=False, highlight=False)


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Redirect what other code prints to standard error: standard output is for results."""
    if sys.stdout is None or sys.stderr is None:  # the shell has closed it
        yield
        return
    sys.stdout.flush()
    results = os.dup(1)
    try:
        os.dup2(2, 1)  # for libraries in C++
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(results, 1)
        os.close(results)


def plain_table(*titles: str, text: Collection[str] = ()) -> Table:
    """Return an empty table without lines.

    Args:
        titles: column titles; the first column is text, the others are numbers.
        text: further text columns, which wrap if the console is narrow.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        number = title != titles[0] and title not in text
        table.add_column(
            title, justify="right" if number else "left", no_wrap=title not in text, overflow="fold"
        )
    return table


def fact_table(facts: Iterable[tuple[str, object]]) -> Table:
    """Return a table without titles that has a name and a text in each row."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts:
        table.add_row(name, Text(str(fact)))
    return table


def print_rows(kind: str, rows: Sequence[Row], console: Console, *, cut: str = "") -> None:
    """Print rows as a table, with their notes below it.

    On a terminal, cells wrap between words. Otherwise, or if the words do not fit, a row is one
    line.

    Args:
        kind: what the rows are, for the message printed if there are none.
        rows: values by column, all with the same columns; ``note`` is not a column.
        console: where to print.
        cut: the last column, if its text is cut at the console's width.
    """
    if not rows:
        console.print(f"no {kind}")
        return
    columns = [
        name for name in rows[0] if name != "note" and any(_cell(name, row[name]) for row in rows)
    ]
    table = plain_table()
    for name in columns:
        cells = [name.replace("_", " "), *(_cell(name, row[name]) for row in rows)]
        longest = max((len(word) for cell in cells for word in cell.split()), default=0)
        whole = bool(cut) or longest == max(map(len, cells))
        if name == cut:
            table.add_column(cells[0])
        else:
            table.add_column(cells[0], min_width=longest, no_wrap=whole)
    for row in rows:
        table.add_row(
            *(
                Text(cell, no_wrap=True, overflow="ellipsis") if name == cut else cell
                for name, cell in ((name, _cell(name, row[name])) for name in columns)
            )
        )
    unlimited = console.options.update(width=sys.maxsize)
    least, full = console.measure(table, options=unlimited)
    if not (cut or (console.is_terminal and least <= console.width)):
        table.width = full
    console.print(table, crop=False)
    for row in rows:
        if row.get("note"):
            note = f"note on {row[columns[0]]}: {row['note']}"
            console.print(note, soft_wrap=not console.is_terminal)


def _cell(name: str, value: Any) -> str:
    """Return a value as text for a table."""
    if value is None or value is False:
        return ""
    if name == "started":
        return str(value)[:16].replace("T", " ")  # UTC to the minute
    if name in ("clean", "robust"):
        return percent(value)
    if name == "eps":
        return eps_text(value)
    if isinstance(value, list):
        return ("x" if name == "image" else " ").join(map(str, value))
    return name if value is True else str(value)


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    align = ["---"] + ["---:"] * (len(titles) - 1)
    return "\n".join(
        "| " + " | ".join(map(markdown_text, row)) + " |" for row in (titles, align, *rows)
    )


def markdown_text(text: str) -> str:
    """Escape the pipe, which would end a cell of a Markdown table."""
    return text.replace("|", "\\|")


def percent(accuracy: float) -> str:
    """Format ``0.6425`` as ``64.25``."""
    return f"{100 * accuracy:.2f}"


def interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """Format an accuracy, or with ``sign`` a difference, in percent with its interval."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.2f} [{100 * low:{plus}.2f}, {100 * high:{plus}.2f}]"


def print_json(value: Any) -> None:
    """Print one JSON value; paths and times become text, NaN and infinities null."""
    from harness.store.files import without_nan

    print(json.dumps(without_nan(value), indent=2, default=str, allow_nan=False))


def print_result(value: Any, text: str, *, as_json: bool) -> None:
    """Print a result as JSON or as text."""
    if as_json:
        print_json(value)
    else:
        print(text)
