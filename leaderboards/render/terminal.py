"""Tables for the terminal: the paper's in blocks of columns that fit, rankings in one block."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table as Grid
from rich.text import Text

from leaderboards.render.cells import (
    ABOVE,
    BELOW,
    PLUS_MINUS,
    SAME,
    cell_lines,
    number_text,
)
from leaderboards.render.escape import ascii_only, one_line
from leaderboards.render.text import (
    badge_meanings,
    disputes,
    flag_texts,
    legend,
    notes,
    rows_with_numbers,
    titled_sections,
)
from leaderboards.table import (
    DISPUTED,
    EPOCH,
    FLAGGED,
    OF_MEANS,
    PARTIAL,
    Column,
    Row,
    Table,
)

GAP = 2
LABEL_WIDTH = 26
# Colours of the comparison with printed numbers; the sign next to the difference says the same.
STYLES = {SAME: "dim", ABOVE: "green", BELOW: "red"}
# Largest share of the width for labels; more would leave too little for numbers.
LABEL_SHARE = 0.55

# Rankings: the mark of the run itself, the width at which long names of methods wrap, and the
# columns left out if the width is too small, in this order, after those that say nothing new.
OWN_MARK = "> "
METHOD_WIDTH = 16
LEFT_OUT = (
    "s/iter", "APGD-CE", "APGD-T", "Square", "Clean", "Architecture", "Src", "Training data", "#",
)  # fmt: skip


def print_table(table: Table, console: Console) -> None:
    """Print title, table, legend, contradictions and notes."""
    ascii_ = _is_ascii(console)

    def write(text: str, style: str = "") -> None:
        console.print(Text(_encodable(text, console), style=style))

    table = _printable(table, ascii_only if ascii_ else str)
    for text, style in ((table.name, "bold"), (table.headline, "italic"), (table.protocol, "")):
        if text:
            write(text, style)
    for number, columns in enumerate(_blocks(table, console)):
        if number:
            write("")
            write(f"{table.name.partition(':')[0]}, continued", "bold")
        # A row without numbers in a further block is not repeated there.
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
    if not table.has_ours and table.first_run:
        console.print(
            Text(f"to add our first number, run: {table.first_run}", style="bold"), soft_wrap=True
        )


def print_ranking(table: Table, facts: Sequence[str], console: Console) -> None:
    """Print a ranking with as many columns as fit the console's width, and its legend.

    ``facts`` are what all rows share, for the title; the dataset is the first.
    """
    cells = [_ranking_cells(table, row, console) for row in table.rows]
    columns = list(cells[0])
    (ranking,) = (column.title for column in table.columns if column.key == table.ranked_by)
    one_arch = len({row["Architecture"].lower() for row in cells}) == 1
    one_seed = all(row["Seeds"] in ("", "1") for row in cells)
    # The title has the number of images; seeds matter only if there are several.
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
    """Split the columns of numbers into blocks that fit next to the labels."""
    width = console.width
    labels = sum(label + GAP for label in _label_widths(table, console))
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
    """Return one section; all have the same column widths, and the first has the header."""
    grid = _plain_grid(header=header)
    for label, width in zip(table.labels, _label_widths(table, console), strict=True):
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
    """Return a cell's numbers, one per line, each followed by a line with interval and seeds."""
    texts = []
    for line in cell_lines(row.cell(column.key), column):
        style = Style(bold=line.number.bold or None, underline=line.number.underlined or None)
        text = Text(_encodable(f"{line.measure} {line.source}", console), style)
        if line.comparison:
            text.append(f" {_encodable(line.comparison, console)}", STYLES[line.verdict])
        texts.append(text)
        if column.forest:
            # One line per row; the seeds are among the labels.
            text.append(" ").append(_encodable(line.interval, console), "dim")
        elif line.extra:
            texts.append(Text(_encodable(line.extra, console), "dim"))
    return Text("\n").join(texts)


def _label_widths(table: Table, console: Console) -> list[int]:
    """Return the label widths; room left by numbers that fit in one block widens long labels."""
    columns = [
        [table.labels[n], *(row.labels[n] for row in table.rows)] for n in range(len(table.labels))
    ]
    longest = [max(map(len, cells)) for cells in columns]
    width = console.width
    most = LABEL_WIDTH if width >= 100 else max(10, int(width * LABEL_SHARE) // len(longest))
    widths = [min(each, most) for each in longest]
    numbers = sum(_column_width(table, column, console) + GAP for column in table.columns)
    spare = width - numbers - sum(each + GAP for each in widths)
    for place, each in enumerate(longest):
        more = max(0, min(spare, each - widths[place]))
        widths[place] += more
        spare -= more
    return widths


def _column_width(table: Table, column: Column, console: Console) -> int:
    cells = [_cell(row, column, console).plain for row in table.rows]
    return max(len(line) for text in (*column.heads, *cells) for line in text.split("\n"))


def _is_ascii(console: Console) -> bool:
    return not console.encoding.startswith("utf")


def _encodable(text: str, console: Console) -> str:
    """Return the text on one line, in ASCII if the console's encoding is not Unicode."""
    text = one_line(text)
    return ascii_only(text) if _is_ascii(console) else text


def _printable(table: Table, spell: Callable[[str], str]) -> Table:
    """Return the table with labels, heads and sections on one line each, mapped by ``spell``."""

    def plain(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(spell(one_line(text)) for text in texts)

    def one(text: str) -> str:
        return spell(one_line(text))

    rows = [
        dataclasses.replace(row, labels=plain(row.labels), group=one(row.group))
        for row in table.rows
    ]
    columns = [dataclasses.replace(column, heads=plain(column.heads)) for column in table.columns]
    panels = {one(name): one(text) for name, text in table.panels.items()}
    return dataclasses.replace(table, rows=tuple(rows), columns=tuple(columns), panels=panels)


def _ranking_cells(table: Table, row: Row, console: Console) -> dict[str, str]:
    """Return a row's texts by title: labels before the numbers, the numbers, labels after them."""
    texts = (_encodable(text, console) for text in row.labels)
    labels = list(zip(table.labels, texts, strict=True))
    numbers = {}
    for column in table.columns:
        number = row.number(column.key)
        ranks = column.key == table.ranked_by
        text = "" if number is None else number_text(number, column, interval=ranks)
        numbers[column.title] = _encodable(text, console)
    before = len(labels) - table.last_labels
    return dict([*labels[:before], *numbers.items(), *labels[before:]])


def _ranking_width(cells: Sequence[Mapping[str, str]], columns: Sequence[str]) -> int:
    """Return the width that a ranking needs, with long names of methods wrapped."""
    return sum(_ranking_column_width(cells, column) + GAP for column in columns) - GAP


def _ranking_column_width(cells: Sequence[Mapping[str, str]], column: str) -> int:
    longest = max(len(row[column]) for row in cells)
    if column == "Method":
        return max(min(longest + len(OWN_MARK), METHOD_WIDTH), len(column))
    return max(longest, len(column))


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
            least = _ranking_column_width(cells, column)
            fits = max(least, min(longest, least + spare))
            grid.add_column(column, width=fits, overflow="fold")
        else:
            textual = column in ("#", "Architecture", "Training data", "Src")
            grid.add_column(column, no_wrap=True, justify="left" if textual else "right")
    for row, texts in zip(table.rows, cells, strict=True):
        shown = dict(texts) | {"Method": (OWN_MARK if row.own else "") + texts["Method"]}
        best = row.number(table.ranked_by)
        bold = ("Method", ranking) if best is not None and best.bold else ()
        grid.add_row(*(Text(shown[name], style="bold" if name in bold else "") for name in columns))
    return grid


def _other_epochs(table: Table) -> dict[str, list[str]]:
    """Return the names of a ranking's rows whose epoch was selected unlike those of our runs."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        _, apart, kind = row.group.partition(EPOCH)
        if apart:
            found[kind].append(table.name_of(row))
    return found


def _ranking_legend(table: Table) -> list[str]:
    """Return lines on flags, badges, marks and intervals; other rows' flags by name only."""
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
    ranges = any("-" in rank for rank in ranks)
    marks = [f"{OWN_MARK} this run"]
    if ranges:
        marks.append("1-3  the ranks that the 95% intervals allow")
    if len({row.facts["augmentation"] for row in table.rows}) > 1:
        marks.append("each kind of training data is ranked on its own")
    if PARTIAL in ranks:
        marks.append("partial  on part of the data, not ranked")
    if any(number.std is not None for number in table.numbers):
        marks.append(f"a {PLUS_MINUS} b  mean and standard deviation over seeds")
    lines.append("; ".join(marks))
    for kind, shown in _other_epochs(table).items():
        lines.append(f"ranked on their own, with epoch {kind}: {', '.join(shown)}")
    if any(number.interval for number in ranking):
        lines.append(f"[a, b]  {table.interval_meaning}")
    if ranges and any((number.seeds or 1) > 1 for number in ranking):
        lines.append(f"1-3  {OF_MEANS}")
    return lines
