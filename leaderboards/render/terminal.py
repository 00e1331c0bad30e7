"""A table for the terminal: the paper's in blocks of columns that fit, a ranking in one block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table as Grid
from rich.text import Text

from leaderboards.render.text import (
    PLUS_MINUS,
    ascii_only,
    badge_meanings,
    disputes,
    extra_text,
    flag_texts,
    legend,
    notes,
    number_text,
    rows_with_numbers,
    titled_sections,
)
from leaderboards.table import (
    DISPUTED,
    FLAGGED,
    INTERVAL,
    OF_MEANS,
    PARTIAL,
    Column,
    Row,
    Table,
)

GAP = 2
LABEL_WIDTH = 26
# Labels beyond this share of the width leave too little for numbers.
LABEL_SHARE = 0.55

# A ranking: the mark of the own run, the width at which long names of methods fold, and the columns
# that are left out of a short width in this order, after those that say nothing new.
OWN_MARK = "> "
METHOD_WIDTH = 16
LEFT_OUT = ("s/iter", "APGD-CE", "APGD-T", "Square", "Clean", "Architecture", "Src", "#")


def print_table(table: Table, console: Console) -> None:
    """Print title, table, legend, contradictions and notes."""
    ascii_ = _is_ascii(console)

    def write(text: str, style: str = "") -> None:
        console.print(Text(ascii_only(text) if ascii_ else text, style=style))

    table = _in_ascii(table) if ascii_ else table
    write(f"Table {table.number}: {table.title}", "bold")
    write(table.protocol)
    for number, columns in enumerate(_blocks(table, console)):
        if number:
            write("")
            write(f"Table {table.number}, continued", "bold")
        # A further block is for further numbers: a row that has none there is not repeated.
        found = rows_with_numbers(table.rows, columns=[column.key for column in columns])
        for place, (title, rows) in enumerate(titled_sections(table, found)):
            grid = _grid(table, columns, rows, console, header=place == 0)
            if title:
                console.print(Text(title, style="italic"))
            console.print(grid)
    for line in legend(table):
        write(line, "dim")
    for where, evidence in disputes(table):
        write(f"{DISPUTED}  {where}: {evidence}")
    for line in flag_texts(table):
        write(f"{FLAGGED}  {line}")
    for line in notes(table):
        write(line, "dim")
    if table.message:
        write(table.message)
    if not table.has_ours:
        console.print(
            Text(f"first number of ours: {table.first_run}", style="bold"), soft_wrap=True
        )


def print_ranking(table: Table, facts: Sequence[str], console: Console) -> None:
    """Print a ranking with as many columns as the console's width holds, and its legend.

    ``facts`` are what all rows share, for the title; the dataset is the first.
    """
    cells = [_ranking_cells(table, row, console) for row in table.rows]
    columns = list(cells[0])
    (ranking,) = (column.title for column in table.columns if column.key == table.ranked_by)
    one_arch = len({row["Architecture"].lower() for row in cells}) == 1
    one_seed = all(row["Seeds"] in ("", "1") for row in cells)
    # The title says how many images; seeds are of interest where there is more than one.
    needless = ["n", *["Seeds"] * one_seed]
    left_out = []
    for column in (*needless, "FAB-T", "Seeds", *["Architecture"] * one_arch, *LEFT_OUT):
        if (
            column in columns
            and column != ranking
            and _ranking_width(cells, columns) > console.width
        ):
            columns.remove(column)
            left_out.append(column)
    if one_arch and "Architecture" in left_out:
        needless.append("Architecture")
        facts = [facts[0], cells[0]["Architecture"], *facts[1:]]
    console.print(Text(_encodable(" | ".join(facts), console), style="bold"))
    console.print(_ranking_grid(table, cells, columns, ranking, console.width))
    lines = _ranking_legend(table)
    missed = [column for column in left_out if column not in needless]
    if missed:
        lines.append(f"left out at this width: {', '.join(missed)}")
    for line in lines:
        console.print(Text(_encodable(line, console), style="dim"))


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


def _plain_grid(*, header: bool = True) -> Grid:
    return Grid(
        box=box.SIMPLE_HEAD if header else None,
        show_header=header,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0) if header else (0, GAP, 0, 0),
        header_style="bold",
    )


def _grid(
    table: Table, columns: Sequence[Column], rows: Sequence[Row], console: Console, *, header: bool
) -> Grid:
    """One section; all have columns of one width, and the first has the heads."""
    grid = _plain_grid(header=header)
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
    """A cell's numbers, each on a line, with a line for what else is known of it."""
    lines = []
    for number in row.cell(column.key).numbers:
        style = Style(bold=number.bold or None, underline=number.underlined or None)
        lines.append(Text(_encodable(number_text(number, column), console), style))
        if extra := extra_text(number, column):
            lines.append(Text(_encodable(extra, console), "dim"))
    return Text("\n").join(lines)


def _label_width(table: Table, place: int, width: int) -> int:
    cells = [table.labels[place], *(row.labels[place] for row in table.rows)]
    longest = max(len(text) for text in cells)
    most = max(10, int(width * LABEL_SHARE) // len(table.labels))
    return min(longest, LABEL_WIDTH if width >= 100 else most)


def _column_width(table: Table, column: Column, console: Console) -> int:
    cells = [_cell(row, column, console).plain for row in table.rows]
    return max(len(line) for text in (*column.heads, *cells) for line in text.split("\n"))


def _is_ascii(console: Console) -> bool:
    return not console.encoding.startswith("utf")


def _encodable(text: str, console: Console) -> str:
    """The text, without what the console's encoding cannot print."""
    return ascii_only(text) if _is_ascii(console) else text


def _in_ascii(table: Table) -> Table:
    """The table with labels and heads for an output that takes ASCII only."""

    def plain(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(ascii_only, texts))

    rows = [
        dataclasses.replace(row, labels=plain(row.labels), group=ascii_only(row.group))
        for row in table.rows
    ]
    columns = [dataclasses.replace(column, heads=plain(column.heads)) for column in table.columns]
    panels = {name: ascii_only(text) for name, text in table.panels.items()}
    return dataclasses.replace(table, rows=tuple(rows), columns=tuple(columns), panels=panels)


def _ranking_cells(table: Table, row: Row, console: Console) -> dict[str, str]:
    """A row's texts by title: labels before the numbers, the numbers, labels behind them."""
    texts = (_encodable(text, console) for text in row.labels)
    labels = list(zip(table.labels, texts, strict=True))
    numbers = {}
    for column in table.columns:
        number = row.number(column.key)
        ranks = column.key == table.ranked_by
        text = "" if number is None else number_text(number, column, badge=False, interval=ranks)
        numbers[column.title] = _encodable(text, console)
    before = len(labels) - table.last_labels
    return dict([*labels[:before], *numbers.items(), *labels[before:]])


def _ranking_width(cells: Sequence[Mapping[str, str]], columns: Sequence[str]) -> int:
    """The width that a ranking needs, with long names of methods folded."""
    return sum(_ranking_column_width(cells, column) + GAP for column in columns) - GAP


def _ranking_column_width(cells: Sequence[Mapping[str, str]], column: str) -> int:
    width = max(len(column), *(len(row[column]) for row in cells))
    return min(width + len(OWN_MARK), METHOD_WIDTH) if column == "Method" else width


def _ranking_grid(
    table: Table,
    cells: Sequence[Mapping[str, str]],
    columns: Sequence[str],
    ranking: str,
    width: int,
) -> Grid:
    grid = _plain_grid()
    spare = max(width - _ranking_width(cells, columns), 0)
    for column in columns:
        if column == "Method":
            longest = max(len(row[column]) for row in cells) + len(OWN_MARK)
            fits = min(longest, _ranking_column_width(cells, column) + spare)
            grid.add_column(column, width=fits, overflow="fold")
        else:
            textual = column in ("#", "Architecture", "Src")
            grid.add_column(column, no_wrap=True, justify="left" if textual else "right")
    for row, texts in zip(table.rows, cells, strict=True):
        shown = dict(texts) | {"Method": (OWN_MARK if row.own else "") + texts["Method"]}
        bold = ("Method", ranking) if row.rank == "1" else ()
        grid.add_row(*(Text(shown[name], style="bold" if name in bold else "") for name in columns))
    return grid


def _ranking_legend(table: Table) -> list[str]:
    """Flags, badges, marks and intervals: those of the own run in full, of other rows by name."""
    lines = []
    for row in table.rows:
        if row.own:
            lines += [f"{FLAGGED}  {flag}" for flag in row.flags]
        elif row.flags:
            names = ", ".join(flag.partition(":")[0] for flag in row.flags)
            lines.append(f"{FLAGGED}  {table.name_of(row)}: {names}")
    lines += badge_meanings(table)
    ranking = [number for row in table.rows if (number := row.number(table.ranked_by))]
    ranks = {row.rank for row in table.rows}
    marks = [f"{OWN_MARK} this run"]
    if "1=" in ranks:
        marks.append("1=  95% interval overlaps the leader's")
    if PARTIAL in ranks:
        marks.append("partial  on a part of the data, not ranked")
    if any(number.std is not None for number in table.numbers):
        marks.append(f"a {PLUS_MINUS} b  mean and deviation over seeds")
    lines.append("; ".join(marks))
    if any(number.interval for number in ranking):
        lines.append(f"[a, b]  {INTERVAL}")
    if "1=" in ranks and any((number.seeds or 1) > 1 for number in ranking):
        lines.append(f"1=  {OF_MEANS}")
    return lines
