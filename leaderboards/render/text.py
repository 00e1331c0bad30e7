"""Text around a table that all formats share: legend, evidence, notes and section titles."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from harness.store.text import counted
from leaderboards.render.cells import SIGNS, VERDICTS, value_text, verdict_of
from leaderboards.table import (
    DISPUTED,
    FLAGGED,
    MEANINGS,
    PAIRED,
    PUBLISHED_ROW,
    Row,
    Table,
)


def badge_meanings(table: Table) -> list[str]:
    """Return the meaning of each badge and mark in the table."""
    shown = {sign for number in table.numbers for sign in (number.badge, *number.marks)}
    return [f"{badge}  {meaning}" for badge, meaning in MEANINGS.items() if badge in shown]


def verdict_meanings(table: Table) -> list[str]:
    """Return the meaning of each sign next to a difference from a printed number."""
    verdicts = {verdict_of(number) for number in table.numbers}
    return [f"{SIGNS[name]}  {text}" for name, text in VERDICTS.items() if name in verdicts]


def legend(table: Table) -> list[str]:
    """Return the meaning of the badges, marks, intervals and differences in the table."""
    lines = badge_meanings(table)
    ours = [number for number in table.numbers if number.run_ids and number.interval]
    if any(not number.difference for number in ours):
        lines.append(f"[a, b]  {table.interval_meaning}")
    if any(number.difference for number in ours):
        lines.append(f"[-a, +b]  {PAIRED}")
    lines += verdict_meanings(table)
    if any(column.difference for column in table.columns):
        lines += [f"{c.heads[-1]}  {c.help}" for c in table.columns if c.difference]
    return lines


def disputes(table: Table) -> list[tuple[str, str]]:
    """Return each contradiction once: the cells it is about, and the evidence."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        for column in table.columns:
            number = row.cell(column.key).printed
            if number and number.disputed:
                where = f"{table.name_of(row)}, {column.title}"
                found.setdefault(number.disputed, []).append(where)
    return [("; ".join(cells), evidence) for evidence, cells in found.items()]


def flag_texts(table: Table) -> list[str]:
    """Return each reason to doubt a number once, with its row."""
    found = [f"{table.name_of(row)}: {flag}" for row in table.rows for flag in row.flags]
    return list(dict.fromkeys(found))


def evidence(table: Table, row: Row) -> list[str]:
    """Return what a reader must know about a row's numbers, each sentence once for all columns."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for column in table.columns:
        cell = row.cell(column.key)
        for number in cell.numbers:
            texts = [(DISPUTED, number.disputed), *((FLAGGED, flag) for flag in number.flags)]
            texts.append(("", number.note))
            if number is cell.logged:
                texts.append(("", f"the authors' log has {value_text(number, column)}"))
            if verdict := verdict_of(number):
                gap = f"{number.from_print:+.{column.decimals}f}"
                texts.append(("", f"{gap}, {VERDICTS[verdict]}"))
            if number.run_ids and number.seeds:
                n = f", n = {number.n:,}" if number.n else ""
                texts.append(("", f"{counted(number.seeds, 'seed')}{n}"))
            for mark, text in texts:
                if text:
                    found.setdefault((number.badge, mark, text), {})[column.title] = None
    return [
        *row.notes,
        *(
            f"{mark} {', '.join(titles)} ({badge}): {text}".strip()
            for (badge, mark, text), titles in found.items()
        ),
    ]


def notes(table: Table) -> list[str]:
    """Return further notes: on single printed rows, the epoch and the whole table."""
    of_rows = [
        f"{table.name_of(row)}: {note}"
        for row in table.rows
        for note in row.notes
        if row.kind != PUBLISHED_ROW
    ]
    epoch = [f"Epoch: {table.selection}"] if table.selection else []
    return [*of_rows, *epoch, *table.remarks]


def remarks_text(table: Table) -> list[str]:
    """Return legend, contradictions, flags and notes, one line each."""
    return [
        *legend(table),
        *(f"{DISPUTED}  {where}: {evidence}" for where, evidence in disputes(table)),
        *(f"{FLAGGED}  {line}" for line in flag_texts(table)),
        *notes(table),
    ]


def rows_with_numbers(
    rows: Sequence[Row], *, ours: bool = True, columns: Collection[str] | None = None
) -> list[Row]:
    """Return the rows that have a number to show in the columns with these keys, or in any."""

    def has_number(row: Row) -> bool:
        cells = [cell for key, cell in row.cells.items() if columns is None or key in columns]
        return any(cell.printed or cell.logged or (ours and cell.ours) for cell in cells)

    return [row for row in rows if has_number(row)]


def sections(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the rows by section, in order."""
    return [(name, list(own)) for name, own in groupby(rows, key=lambda row: row.group)]


def titled_sections(table: Table, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the rows by section with titles, which are empty if the table has one section."""
    several = len({row.group for row in table.rows}) > 1
    return [
        (f"{name} {table.panels.get(name, '')}".strip() if several else "", own)
        for name, own in sections(rows)
    ]
