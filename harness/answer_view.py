"""How the rows of a query are printed."""

from __future__ import annotations

import csv
import json
import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.store.asking import Answer


def print_answer(answer: Answer, *, as_json: bool, as_csv: bool) -> None:
    """As JSON objects, as CSV, or as a table as wide as the terminal."""
    if as_json:
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        print(json.dumps(rows, indent=2, default=str))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        _print_table(answer, Console())


def _print_table(answer: Answer, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for place, name in enumerate(answer.columns):
        values = [row[place] for row in answer.rows]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        right = bool(values) and numbers
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*("" if value is None else Text(str(value)) for value in row))
    console.print(table)
    count = len(answer.rows)
    console.print(f"{count} row{'' if count == 1 else 's'}", style="dim", highlight=False)
