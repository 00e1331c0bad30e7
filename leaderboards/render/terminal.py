"""A table for the terminal: as many columns side by side as fit, the others in further blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from leaderboards.render.text import (
    ascii_only,
    disputes,
    extra_text,
    flags,
    legend,
    number_text,
    row_notes,
    rows_with_numbers,
    sections,
)
from leaderboards.table import Column, Number, Row, Table

GAP = 2
LABEL_WIDTH = 26
# Labels beyond this share of the width leave too little for numbers.
LABEL_SHARE = 0.55


def print_table(table: Table, console: Console) -> None:
    """Print title, table, legend, contradictions and notes."""
    ascii_ = not console.encoding.startswith("utf")

    def say(text: str, style: str = "") -> None:
        console.print(Text(ascii_only(text) if ascii_ else text, style=style))

    table = _in_ascii(table) if ascii_ else table
    say(f"Table {table.number}: {table.title}", "bold")
    say(table.protocol)
    blocks = _blocks(table, console)
    several = len(sections(table.rows)) > 1
    for number, columns in enumerate(blocks):
        if number:
            say("")
            say(f"Table {table.number}, continued", "bold")
        # Another block is for further numbers: a row that has none there is not told again.
        keys = [column.key for column in columns]
        found = sections(rows_with_numbers(table.rows, columns=keys))
        for place, (name, rows) in enumerate(found):
            title = f"{name} {table.panels.get(name, '')}".strip()
            grid = _grid(table, columns, rows, console, header=place == 0)
            if title and several:
                console.print(Text(title, style="italic"))
            console.print(grid)
    for line in legend(table):
        say(line, "dim")
    for where, evidence in disputes(table):
        say(f"!  {where}: {evidence}")
    for line in flags(table):
        say(f"?  {line}")
    for name, note in row_notes(table):
        say(f"{name}: {note}", "dim")
    for remark in (f"Epoch: {table.selection}", *table.remarks):
        say(remark, "dim")
    if table.message:
        say(table.message)
    if not table.has_ours:
        console.print(
            Text(f"first number of ours: {table.first_run}", style="bold"), soft_wrap=True
        )


def _blocks(table: Table, console: Console) -> list[list[Column]]:
    """The columns of numbers, cut into blocks that fit beside the labels."""
    width = console.width
    labels = sum(_label_width(table, place, width) + GAP for place in range(len(table.labels)))
    blocks: list[list[Column]] = [[]]
    room = width - labels
    for column in table.columns:
        need = _column_width(table, column, console) + GAP
        if blocks[-1] and need > room:
            blocks.append([])
            room = width - labels
        blocks[-1].append(column)
        room -= need
    return blocks


def _grid(
    table: Table,
    columns: Sequence[Column],
    rows: Sequence[Row],
    console: Console,
    *,
    header: bool,
) -> Grid:
    """One section; all have columns of one width, and the first has the heads."""
    grid = Grid(
        box=box.SIMPLE_HEAD if header else None,
        show_header=header,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0) if header else (0, GAP, 0, 0),
        header_style="bold",
    )
    for place, label in enumerate(table.labels):
        width = _label_width(table, place, console.width)
        grid.add_column(Text(label), width=width, overflow="fold")
    for column in columns:
        heads = Text("\n".join(column.heads), justify="right")
        width = _column_width(table, column, console)
        grid.add_column(heads, justify="right", no_wrap=True, width=width)
    for row in rows:
        cells = [_cell(row, column, console) for column in columns]
        grid.add_row(*map(Text, row.labels), *cells)
    return grid


def _cell(row: Row, column: Column, console: Console) -> Text:
    lines = [
        Text(text, style="dim" if number is None else _style(number))
        for text, number in _lines(row, column, console)
    ]
    return Text("\n").join(lines)


def _lines(row: Row, column: Column, console: Console) -> list[tuple[str, Number | None]]:
    """The lines of a cell, each with its number; what is known besides has none."""
    cell = row.cells.get(column.key)
    lines: list[tuple[str, Number | None]] = []
    for number in cell.numbers if cell else ():
        lines.append((number_text(number, row, column), number))
        extra = extra_text(number, column) if number.run_ids and not column.difference else ""
        if extra:
            lines.append((extra, None))
    if not console.encoding.startswith("utf"):
        return [(ascii_only(text), number) for text, number in lines]
    return lines


def _style(number: Number) -> str:
    styles = [name for name, on in (("bold", number.bold), ("underline", number.underlined)) if on]
    return " ".join(styles)


def _label_width(table: Table, place: int, width: int) -> int:
    cells = [table.labels[place], *(row.labels[place] for row in table.rows)]
    longest = max(len(text) for text in cells)
    most = max(10, int(width * LABEL_SHARE) // len(table.labels))
    return min(longest, LABEL_WIDTH if width >= 100 else most)


def _column_width(table: Table, column: Column, console: Console) -> int:
    heads = [len(head) for head in column.heads]
    cells = [len(text) for row in table.rows for text, _ in _lines(row, column, console)]
    return max(heads + cells)


def _in_ascii(table: Table) -> Table:
    """The table with labels and heads for an output that takes ASCII only."""
    rows = [
        dataclasses.replace(
            row, labels=tuple(map(ascii_only, row.labels)), group=ascii_only(row.group)
        )
        for row in table.rows
    ]
    columns = [
        dataclasses.replace(column, heads=tuple(map(ascii_only, column.heads)))
        for column in table.columns
    ]
    panels = {name: ascii_only(text) for name, text in table.panels.items()}
    return dataclasses.replace(table, rows=tuple(rows), columns=tuple(columns), panels=panels)
