"""Ranks as ranges that the 95% intervals allow, since close numbers have no certain order."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from leaderboards.table import PARTIAL, Cell, Number, Row


def rank_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return the rows with their ranks by ``metric``, best first, then those without a rank.

    The ranks of a row, such as ``2-4``, start after all rows that are certainly better (their
    interval is above its own) and end before all that are certainly worse. Rows with equal numbers
    and intervals have equal ranks; a number without an interval counts as its value alone. The best
    number is bold.
    """

    def value(row: Row) -> float:
        number = row.number(metric)
        return number.value if number else -1.0

    ordered = sorted(rows, key=value, reverse=True)
    able = [(row, number) for row in ordered if not row.partial and (number := row.number(metric))]
    lows, highs = (sorted(number.span[end] for _, number in able) for end in (0, 1))
    ranked = []
    for row, number in able:
        low, high = number.span
        first = 1 + len(able) - bisect_right(lows, high)
        last = len(able) - bisect_left(highs, low)
        rank = str(first) if first == last else f"{first}-{last}"
        cells = dict(row.cells)
        cells[metric] = _with_bold(cells[metric], number, number.value == able[0][1].value)
        ranked.append(dataclasses.replace(row, rank=rank, cells=cells))
    rest = [row for row in ordered if row.partial or row.number(metric) is None]
    return ranked + [dataclasses.replace(row, rank=PARTIAL * row.partial) for row in rest]


def _with_bold(cell: Cell, number: Number, bold: bool) -> Cell:
    """Return the cell with ``bold`` set on its first number."""
    changed = dataclasses.replace(number, bold=bold)
    if cell.printed is number:
        return dataclasses.replace(cell, printed=changed)
    return dataclasses.replace(cell, ours=changed)
