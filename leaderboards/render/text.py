"""Numbers as text, the same in every format."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from leaderboards.table import (
    DIFFERENCE_ROW,
    DISPUTED,
    FLAGGED,
    INTERVAL,
    MEANINGS,
    Column,
    Number,
    Row,
    Table,
)

PLUS_MINUS = "\u00b1"


def value_text(number: Number, column: Column, *, signed: bool = False) -> str:
    """``31.45``, ``+0.88`` or ``0.319 s/iter``, without badge and marks."""
    sign = "+" if signed else ""
    return f"{number.value:{sign}.{column.decimals}f}{column.unit}"


def is_signed(row: Row, column: Column) -> bool:
    """Whether the numbers of a place are differences."""
    return column.difference or row.kind == DIFFERENCE_ROW


def marks(number: Number) -> str:
    """``!`` for a disputed number and ``?`` for a flagged one."""
    return (DISPUTED if number.disputed else "") + (FLAGGED if number.flags else "")


def number_text(number: Number, row: Row, column: Column) -> str:
    """``31.45 P``, ``76.64 \u00b1 0.02 P``, ``63.59 P!``."""
    text = value_text(number, column, signed=is_signed(row, column))
    if number.std is not None:
        text += f" {PLUS_MINUS} {number.std:.{column.decimals}f}"
    return f"{text} {number.badge}{marks(number)}"


def extra_text(number: Number, column: Column) -> str:
    """What is known of one of our numbers besides: interval or seeds, and how far from print."""
    parts = []
    if number.low is not None and number.high is not None:
        parts.append(f"[{number.low:.1f}, {number.high:.1f}]")
    if number.seeds is not None and number.seeds > 1:
        parts.append(f"{number.seeds} seeds")
    if number.from_print is not None:
        parts.append(f"P{number.from_print:+.{column.decimals}f}")
    return " ".join(parts)


def legend(table: Table) -> list[str]:
    """What each badge and mark in the table means."""
    shown = {number.badge for number in table.numbers}
    shown |= {DISPUTED for number in table.numbers if number.disputed}
    shown |= {FLAGGED for number in table.numbers if number.flags}
    lines = [f"{badge}  {meaning}" for badge, meaning in MEANINGS.items() if badge in shown]
    if any(number.run_ids and number.low is not None for number in table.numbers):
        lines.append(f"[a, b]  {INTERVAL}")
    if any(number.from_print is not None for number in table.numbers):
        lines.append("P+0.10  a tenth of a point above the printed number")
    if any(column.difference for column in table.columns):
        lines += [f"{c.heads[-1]}  {c.help}" for c in table.columns if c.difference]
    return lines


def disputes(table: Table) -> list[tuple[str, str]]:
    """Each contradiction once: where it stands, and the evidence."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        for column in table.columns:
            cell = row.cells.get(column.key)
            if cell and cell.printed and cell.printed.disputed:
                place = f"{method_of(table, row)}, {column.title}"
                found.setdefault(cell.printed.disputed, []).append(place)
    return [("; ".join(places), evidence) for evidence, places in found.items()]


def method_of(table: Table, row: Row) -> str:
    """What a row is called."""
    return row.labels[table.method_label] or " ".join(filter(None, row.labels))


def row_notes(table: Table) -> list[tuple[str, str]]:
    """What must be known of single printed rows: the row, the note."""
    return [
        (method_of(table, row), note)
        for row in table.rows
        for note in row.notes
        if row.kind != "published"
    ]


def flags(table: Table) -> list[str]:
    """Each reason to doubt a number that was measured, with its row, once."""
    found = {
        f"{method_of(table, row)}: {flag}": None
        for row in table.rows
        for cell in row.cells.values()
        for number in cell.numbers
        for flag in number.flags
    }
    return list(found)


def rows_with_numbers(
    rows: Sequence[Row],
    *,
    printed: bool = True,
    ours: bool = True,
    columns: Collection[str] | None = None,
) -> list[Row]:
    """The rows that have a number to show.

    Args:
        rows: rows of a table.
        printed: whether what others measured is shown: print's, the log's and RobustBench's.
        ours: whether ours is shown.
        columns: keys of the columns that are shown; None for all.
    """

    def has_number(row: Row) -> bool:
        cells = [cell for key, cell in row.cells.items() if columns is None or key in columns]
        return any(
            (ours and cell.ours) or (printed and (cell.printed or cell.logged)) for cell in cells
        )

    return [row for row in rows if has_number(row)]


def sections(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by section, in order."""
    found: list[tuple[str, list[Row]]] = []
    for row in rows:
        if not found or found[-1][0] != row.group:
            found.append((row.group, []))
        found[-1][1].append(row)
    return found


def ascii_only(text: str) -> str:
    """The text for an output that takes ASCII only."""
    signs = {
        "\u00b1": "+-",
        "\u03b1": "alpha",
        "\u03b2": "beta",
        "\u03c4": "tau",
        "\u0394": "Delta ",
        "\u03b5": "eps",
        "\u2713": "yes",
        "\u2717": "no",
        "\u00d7": "x",
        "\u2113\u221e": "Linf",
    }
    for sign, word in signs.items():
        text = text.replace(sign, word)
    return text.encode("ascii", "replace").decode()
