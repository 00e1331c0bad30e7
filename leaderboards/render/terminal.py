"""A table for the terminal: as many columns side by side as fit, the others in further blocks."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leaderboards.render.text import (
    ascii_only,
    disputes,
    extra_text,
    flags,
    legend,
    number_text,
    recomputed,
    row_notes,
    sections,
)
from leaderboards.rendered import Number, RenderedColumn, RenderedRow, RenderedTable

GAP = 2
LABEL_WIDTH = 26
# Labels beyond this share of the width leave too little for numbers.
LABEL_SHARE = 0.55


def print_table(table: RenderedTable, console: Console) -> None:
    """Print title, table, legend, contradictions and notes."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(_shown(text, console), style=style))

    say(f"Table {table.number}: {table.title}", "bold")
    say(table.protocol)
    blocks = _blocks(table, console.width)
    for number, columns in enumerate(blocks):
        if number:
            say("")
            say(f"Table {table.number}, continued", "bold")
        console.print(_grid(table, columns, console))
    for line in legend(table):
        say(line, "dim")
    for where, evidence in disputes(table):
        say(f"!  {where}: {evidence}")
    for line in recomputed(table):
        say(f"!  {line}")
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


def _blocks(table: RenderedTable, width: int) -> list[list[RenderedColumn]]:
    """The columns of numbers, cut into blocks that fit beside the labels."""
    labels = sum(_label_width(table, place, width) + GAP for place in range(len(table.labels)))
    blocks: list[list[RenderedColumn]] = [[]]
    room = width - labels
    for column in table.columns:
        need = _column_width(table, column) + GAP
        if blocks[-1] and need > room:
            blocks.append([])
            room = width - labels
        blocks[-1].append(column)
        room -= need
    return blocks


def _grid(table: RenderedTable, columns: Sequence[RenderedColumn], console: Console) -> Table:
    grid = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
    )
    for place, label in enumerate(table.labels):
        grid.add_column(
            Text(_shown(label, console)),
            width=_label_width(table, place, console.width),
            overflow="fold",
        )
    for column in columns:
        heads = "\n".join(column.heads)
        grid.add_column(
            Text(_shown(heads, console), justify="right"),
            justify="right",
            no_wrap=True,
            min_width=_column_width(table, column),
        )
    for name, rows in sections(table.rows):
        if name and len(sections(table.rows)) > 1:
            caption = table.panels.get(name, "")
            title = f"{name} {caption}".strip()
            grid.add_section()
            _add_title(grid, title, console)
        for row in rows:
            cells = [_cell(row, column, console) for column in columns]
            grid.add_row(*(Text(_shown(label, console)) for label in row.labels), *cells)
    return grid


def _add_title(grid: Table, title: str, console: Console) -> None:
    """A line for a section, as wide as it needs: in the first column, so that it may fold."""
    grid.add_row(Text(_shown(title, console), style="italic"))


def _cell(row: RenderedRow, column: RenderedColumn, console: Console) -> Text:
    cell = row.cells.get(column.key)
    lines: list[Text] = []
    for number in cell.numbers if cell else ():
        lines.append(Text(number_text(number, row, column), style=_style(number)))
        extra = extra_text(number, column) if number.run_ids and not column.difference else ""
        if extra:
            lines.append(Text(extra, style="dim"))
    text = Text("\n").join(lines)
    if not console.encoding.startswith("utf"):
        text = Text("\n").join([Text(ascii_only(line.plain), line.style) for line in lines])
    return text


def _style(number: Number) -> str:
    styles = [name for name, on in (("bold", number.bold), ("underline", number.underlined)) if on]
    return " ".join(styles)


def _label_width(table: RenderedTable, place: int, width: int) -> int:
    cells = [table.labels[place], *(row.labels[place] for row in table.rows)]
    longest = max(len(text) for text in cells)
    most = max(10, int(width * LABEL_SHARE) // len(table.labels))
    return min(longest, LABEL_WIDTH if width >= 100 else most)


def _column_width(table: RenderedTable, column: RenderedColumn) -> int:
    width = max(len(head) for head in column.heads)
    for row in table.rows:
        cell = row.cells.get(column.key)
        for number in cell.numbers if cell else ():
            extra = extra_text(number, column) if number.run_ids and not column.difference else ""
            width = max(width, len(number_text(number, row, column)), len(extra))
    return width


def _shown(text: str, console: Console) -> str:
    return text if console.encoding.startswith("utf") else ascii_only(text)
