"""The text of a cell in every format: the printed number, ours below it, and their difference.

Formats differ in how they typeset a ``Line``, not in its content.
"""

from __future__ import annotations

from dataclasses import dataclass

from leaderboards.table import Cell, Column, Number

PLUS_MINUS = "\u00b1"
# Verdicts on ours against the printed number, by 95% intervals. Their signs do not need colour.
SAME, ABOVE, BELOW = "same", "above", "below"
SIGNS = {SAME: "\u2248", ABOVE: "\u25b2", BELOW: "\u25bc"}
VERDICTS = {
    SAME: "ours minus the printed number, with overlapping 95% intervals",
    ABOVE: "ours is above the printed number, and the intervals do not overlap",
    BELOW: "ours is below the printed number, and the intervals do not overlap",
}


@dataclass(frozen=True)
class Line:
    """One number of a cell, as text.

    Attributes:
        number: the number.
        value: ``31.40``, ``+1.29`` or ``0.319 s/iter``.
        deviation: over seeds, ``0.12``; empty if there is none.
        source: badge and marks, ``P!``.
        gap: ours minus the printed number, ``-0.05``; empty if they are not compared.
        verdict: ``same``, ``above`` or ``below``; empty if they are not compared.
        interval: ``[30.5, 32.3]``; empty if there is none to show.
        extra: for ours, the interval and the seeds: ``[30.5, 32.3]``, ``3 seeds``.
    """

    number: Number
    value: str
    deviation: str
    source: str
    gap: str
    verdict: str
    interval: str
    extra: str

    @property
    def sign(self) -> str:
        """The sign of the verdict."""
        return SIGNS.get(self.verdict, "")

    @property
    def measure(self) -> str:
        """Value and deviation: ``76.64 \u00b1 0.02``."""
        return f"{self.value} {PLUS_MINUS} {self.deviation}" if self.deviation else self.value

    @property
    def comparison(self) -> str:
        """Difference and sign: ``-0.05 \u2248``; empty if the number is not compared."""
        return f"{self.gap} {self.sign}" if self.gap else ""


def cell_lines(cell: Cell, column: Column) -> list[Line]:
    """Return the numbers of a cell in reading order: printed, logged, ours."""
    return [number_line(number, column) for number in cell.numbers]


def number_line(number: Number, column: Column) -> Line:
    """Return one number as text."""
    gap = number.from_print
    return Line(
        number=number,
        value=value_text(number, column),
        deviation=deviation_text(number, column),
        source=number.badge + number.marks,
        gap="" if gap is None else f"{gap:+.{column.decimals}f}",
        verdict=verdict_of(number),
        interval=interval_text(number),
        extra=extra_text(number, column),
    )


def verdict_of(number: Number) -> str:
    """Return how a number of ours compares with the printed one; empty if it is not compared."""
    if number.from_print is None:
        return ""
    if not number.apart:
        return SAME
    return ABOVE if number.from_print > 0 else BELOW


def value_text(number: Number, column: Column) -> str:
    """Return ``31.45``, ``+0.88`` or ``0.319 s/iter``, without badge and marks."""
    digits = ".3g" if column.decimals is None else f".{column.decimals}f"
    return f"{number.value:{'+' if number.difference else ''}{digits}}{column.unit}"


def deviation_text(number: Number, column: Column) -> str:
    """Return the standard deviation as a table shows it; empty if there is none."""
    if number.std is None:
        return ""
    return value_text(Number(number.std, number.badge), column).removesuffix(column.unit)


def number_text(number: Number, column: Column, *, interval: bool) -> str:
    """Return a number with its marks, such as ``63.59!``, ``76.64 \u00b1 0.02`` or ``+0.88``.

    ``interval`` adds the interval of one model: ``31.45 [30.5, 32.4]``.
    """
    parts = [value_text(number, column) + number.marks]
    if number.std is not None:
        parts.append(f"{PLUS_MINUS} {deviation_text(number, column)}")
    if interval and (text := interval_text(number)):
        parts.append(text)
    return " ".join(parts)


def interval_text(number: Number) -> str:
    """Return ``[30.5, 32.4]``, or ``[-0.1, +2.7]`` for a difference; empty if there is none.

    Intervals of times, which have no test images, are in CSV and JSON only.
    """
    if number.interval is None or number.n is None:
        return ""
    low, high = number.interval
    return f"[{low:+.1f}, {high:+.1f}]" if number.difference else f"[{low:.1f}, {high:.1f}]"


def extra_text(number: Number, column: Column) -> str:
    """Return the interval and the seeds of a number of ours; empty for other numbers."""
    if not number.run_ids:
        return ""
    seeds = f"{number.seeds} seeds" if column.seeds and (number.seeds or 1) > 1 else ""
    return " ".join(filter(None, (interval_text(number), seeds)))
