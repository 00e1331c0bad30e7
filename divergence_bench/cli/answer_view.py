"""How the rows of a query are printed."""

from __future__ import annotations

import csv
import json
import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from divergence_bench.cli.sql import QueryResult


def print_answer(answer: QueryResult, *, as_json: bool, as_csv: bool, wrap: bool = False) -> None:
    """As JSON objects, as CSV, or as text; with ``wrap`` in a table of any width."""
    if as_json:
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        print(json.dumps(rows, indent=2, default=str))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        print_text(answer, Console(), wrap=wrap)


def print_text(answer: QueryResult, console: Console, *, wrap: bool = False) -> None:
    """As a table, or where it is wider than the console and does not wrap, each row vertically."""
    table = _table(answer)
    unlimited = console.options.update(width=sys.maxsize)
    if wrap or console.measure(table, options=unlimited).maximum <= console.width:
        console.print(table)
    else:
        _print_vertically(answer, console)
    count = len(answer.rows)
    console.print(f"{count} row{'' if count == 1 else 's'}", style="dim", highlight=False)


def _table(answer: QueryResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for place, name in enumerate(answer.columns):
        values = [row[place] for row in answer.rows]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        right = bool(values) and numbers
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*("" if value is None else Text(str(value)) for value in row))
    return table


def _print_vertically(answer: QueryResult, console: Console) -> None:
    """One line a column; a terminal cuts a long one, a pipe gets it whole."""
    widest = max(map(len, answer.columns))
    for number, row in enumerate(answer.rows, 1):
        console.print(Text(f"-[ {number} ]-", style="dim"))
        for name, value in zip(answer.columns, row, strict=True):
            first, *others = ("" if value is None else str(value)).splitlines() or [""]
            lines = [Text.assemble((name.ljust(widest), "bold"), "  ", first)]
            lines += [Text(" " * (widest + 2) + other) for other in others]
            for line in lines:
                if console.is_terminal:
                    line.truncate(console.width, overflow="ellipsis")
                console.print(line, soft_wrap=True)
