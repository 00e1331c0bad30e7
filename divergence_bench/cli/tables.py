"""How the verbs print tables, accuracies and JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def plain_table(*titles: str, text: Collection[str] = ()) -> Table:
    """Return a table without lines, to which rows are added.

    Args:
        titles: column titles; the first column is text, the others are numbers.
        text: further columns that are text; these wrap where the width is short.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        number = title != titles[0] and title not in text
        table.add_column(
            title, justify="right" if number else "left", no_wrap=title not in text, overflow="fold"
        )
    return table


def fact_table(facts: Iterable[tuple[str, object]]) -> Table:
    """Return a table of a name and a text a row, without titles."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts:
        table.add_row(name, Text(str(fact)))
    return table


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    align = ["---"] + ["---:"] * (len(titles) - 1)
    return "\n".join(
        "| " + " | ".join(map(markdown_text, row)) + " |" for row in (titles, align, *rows)
    )


def markdown_text(text: str) -> str:
    """Escape what would end a cell of a Markdown table."""
    return text.replace("|", "\\|")


def percent(accuracy: float) -> str:
    """``0.6425`` as ``64.25``."""
    return f"{100 * accuracy:.2f}"


def interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """An accuracy, or with ``sign`` a difference, in percent with its interval."""
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
