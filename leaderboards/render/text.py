"""Numbers as text, and the texts that all formats share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from leaderboards.table import (
    DISPUTED,
    FLAGGED,
    INTERVAL,
    MEANINGS,
    PUBLISHED_ROW,
    Column,
    Number,
    Row,
    Table,
)

PLUS_MINUS = "\u00b1"


def value_text(number: Number, column: Column) -> str:
    """``31.45``, ``+0.88`` or ``0.319 s/iter``, without badge and marks."""
    digits = ".3g" if column.decimals is None else f".{column.decimals}f"
    return f"{number.value:{'+' if number.difference else ''}{digits}}{column.unit}"


def deviation_text(number: Number, column: Column) -> str:
    """The standard deviation as a table shows it; empty if there is none."""
    if number.std is None:
        return ""
    return value_text(Number(number.std, number.badge), column).removesuffix(column.unit)


def number_text(
    number: Number, column: Column, *, badge: bool = True, interval: bool = False
) -> str:
    """A number in one line, such as ``31.45 P``, ``76.64 \u00b1 0.02 P`` or ``+0.88 R``.

    Args:
        number: the number.
        column: its column.
        badge: whether the badge follows, and the marks it: ``63.59 P!``; else ``63.59!``.
        interval: whether the interval of one model follows: ``31.45 [30.5, 32.4]``.
    """
    parts = [value_text(number, column) + ("" if badge else number.marks)]
    if number.std is not None:
        parts.append(f"{PLUS_MINUS} {deviation_text(number, column)}")
    if interval and number.interval:
        parts.append(interval_text(number))
    if badge:
        parts.append(number.badge + number.marks)
    return " ".join(parts)


def interval_text(number: Number) -> str:
    """``[30.5, 32.4]``; empty if the number has no interval to show."""
    return "[{:.1f}, {:.1f}]".format(*number.interval) if number.interval else ""


def extra_text(number: Number, column: Column) -> str:
    """What else is known of one of our numbers: interval or seeds, and how far from print."""
    if not number.run_ids or number.difference:
        return ""
    parts = [interval_text(number)]
    if number.seeds is not None and number.seeds > 1:
        parts.append(f"{number.seeds} seeds")
    if number.from_print is not None:
        parts.append(f"P{number.from_print:+.{column.decimals}f}")
    return " ".join(filter(None, parts))


def badge_meanings(table: Table) -> list[str]:
    """What each badge and mark in the table means."""
    shown = {sign for number in table.numbers for sign in (number.badge, *number.marks)}
    return [f"{badge}  {meaning}" for badge, meaning in MEANINGS.items() if badge in shown]


def legend(table: Table) -> list[str]:
    """What badges, marks, intervals and differences in the table mean."""
    lines = badge_meanings(table)
    if any(number.run_ids and number.interval for number in table.numbers):
        lines.append(f"[a, b]  {INTERVAL}")
    if any(number.from_print is not None for number in table.numbers):
        lines.append("P+0.10  a tenth of a point above the printed number")
    if any(column.difference for column in table.columns):
        lines += [f"{c.heads[-1]}  {c.help}" for c in table.columns if c.difference]
    return lines


def disputes(table: Table) -> list[tuple[str, str]]:
    """Each contradiction once: the cells that it is about, and the evidence."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        for column in table.columns:
            number = row.cell(column.key).printed
            if number and number.disputed:
                where = f"{table.name_of(row)}, {column.title}"
                found.setdefault(number.disputed, []).append(where)
    return [("; ".join(cells), evidence) for evidence, cells in found.items()]


def flag_texts(table: Table) -> list[str]:
    """Each reason to doubt a number, with its row, once."""
    found = [f"{table.name_of(row)}: {flag}" for row in table.rows for flag in row.flags]
    return list(dict.fromkeys(found))


def notes(table: Table) -> list[str]:
    """What a reader must know besides: of single printed rows, the epoch, the whole table."""
    of_rows = [
        f"{table.name_of(row)}: {note}"
        for row in table.rows
        for note in row.notes
        if row.kind != PUBLISHED_ROW
    ]
    epoch = [f"Epoch: {table.selection}"] if table.selection else []
    return [*of_rows, *epoch, *table.remarks]


def remarks_text(table: Table) -> list[str]:
    """Legend, contradictions, flags and notes, one line each."""
    return [
        *legend(table),
        *(f"{DISPUTED}  {where}: {evidence}" for where, evidence in disputes(table)),
        *(f"{FLAGGED}  {line}" for line in flag_texts(table)),
        *notes(table),
    ]


def rows_with_numbers(
    rows: Sequence[Row], *, ours: bool = True, columns: Collection[str] | None = None
) -> list[Row]:
    """The rows that have a number to show in the columns of these keys, or in any."""

    def has_number(row: Row) -> bool:
        cells = [cell for key, cell in row.cells.items() if columns is None or key in columns]
        return any(cell.printed or cell.logged or (ours and cell.ours) for cell in cells)

    return [row for row in rows if has_number(row)]


def sections(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by section, in order."""
    found: list[tuple[str, list[Row]]] = []
    for row in rows:
        if not found or found[-1][0] != row.group:
            found.append((row.group, []))
        found[-1][1].append(row)
    return found


def titled_sections(table: Table, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by section, with a title that is empty where the whole table has one section."""
    several = len({row.group for row in table.rows}) > 1
    return [
        (f"{name} {table.panels.get(name, '')}".strip() if several else "", own)
        for name, own in sections(rows)
    ]


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
