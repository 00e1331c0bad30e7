"""A table of the paper with every number in its place: pure data, for every way of showing it.

Labels are plain text with a few signs such as the Greek alpha. Accuracies are percent, differences
percentage points, times seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PRINTED_ROW = "printed"
HEAD_ROW = "head"
DIFFERENCE_ROW = "difference"
PUBLISHED_ROW = "published"
OURS_ROW = "ours"


@dataclass(frozen=True)
class Number:
    """One number of a cell.

    Attributes:
        value: percent, seconds, or percentage points.
        badge: where it comes from: P, L, RB, R or S of ``leaderboards.badges``.
        low: lower end of the 95% interval of one model, in the unit of ``value``; of a printed or
            published number Wilson's for ``n`` images, computed here.
        high: its upper end.
        std: sample standard deviation (ddof 1) over seeds; as printed for a printed number.
        n: test images, where the number is of one evaluation.
        seeds: how many runs it is the mean of; None where that is unknown.
        bold: printed in bold; of ours, the best of the column in its section.
        underlined: printed underlined.
        disputed: the evidence against a printed number that the paper contradicts; else empty.
            Where it is set the number wears ``!``.
        note: damage and corrections; of ours, how it was trained and measured.
        run_ids: the runs it is from.
        flags: reasons to doubt it, one sentence each. Where there are any it wears ``?``.
        from_print: ours minus the printed number of the same cell.
        recomputed: of a printed difference, the difference of the printed numbers.
    """

    value: float
    badge: str
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n: int | None = None
    seeds: int | None = None
    bold: bool = False
    underlined: bool = False
    disputed: str = ""
    note: str = ""
    run_ids: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    from_print: float | None = None
    recomputed: float | None = None


@dataclass(frozen=True)
class Cell:
    """All numbers of one place.

    Attributes:
        printed: the printed number, or RobustBench's in a row of its entries.
        logged: the number in the authors' released log, where it is known.
        ours: measured here.
    """

    printed: Number | None = None
    logged: Number | None = None
    ours: Number | None = None

    @property
    def numbers(self) -> tuple[Number, ...]:
        """Those that are there, in reading order."""
        found = (self.printed, self.logged, self.ours)
        return tuple(number for number in found if number is not None)


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        key: its name in ``RenderedRow.cells``, in JSON and in CSV.
        heads: its titles from top to bottom, as many in each column of a table; equal neighbours
            of the upper lines belong together.
        metric: clean, aa, sec_per_iter, or an attack's name for what was left after it.
        help: what the number is, in a sentence.
        decimals: digits after the point.
        unit: written after each number, empty for percent.
        lower_is_better: which end is the best.
        difference: whether it holds differences from a baseline, which are computed here and
            printed nowhere.
    """

    key: str
    heads: tuple[str, ...]
    metric: str
    help: str = ""
    decimals: int = 2
    unit: str = ""
    lower_is_better: bool = False
    difference: bool = False

    @property
    def title(self) -> str:
        """The titles in one line."""
        return " ".join(dict.fromkeys(head for head in self.heads if head))


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        kind: ``printed``, ``head`` (accuracy of a teacher or student alone), ``difference`` (of two
            printed rows), ``published`` (a RobustBench entry) or ``ours`` (no printed row is like
            it).
        labels: one text a label column; the method's place is ``RenderedTable.method_label``.
        group: the section, such as Features; the same for neighbours. Rows of different sections
            are never ranked together.
        cells: by column key; a place where nothing is known is missing.
        facts: for filters: ``method`` (registered name), ``arch``, ``teacher``, ``dataset``,
            ``augmentation``, ``selection`` (last, best-on-val, best-on-test; empty where unknown),
            ``scale`` (paper or small) and ``source`` (the badges in the row, joined by commas).
        notes: what a reader must know of this row, with the evidence.
        command: the command that makes our number of this row; empty where there is none.
    """

    kind: str
    labels: tuple[str, ...]
    group: str
    cells: Mapping[str, Cell]
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the paper with our numbers beside the printed ones.

    Attributes:
        number: its number in the paper.
        title: a few words.
        caption: what it shows, in one or two sentences.
        protocol: what all its numbers share: data set, threat model, attack.
        selection: whose weights the printed numbers are of, as far as that is known.
        labels: titles of the label columns.
        method_label: which of the label columns names the method, from 0.
        last_labels: how many label columns stand behind the numbers in print.
        stub: title of a column that names the section; empty if the paper has none.
        stub_text: the one text in that column; where it is empty, the section's name.
        panels: section to its caption where the paper prints each section as a table of its own;
            else empty.
        columns: printed columns first, in the paper's order, then those that only ours need, then
            differences.
        rows: printed rows in the paper's order, then RobustBench's, then ours.
        remarks: what a reader must know of the whole table.
        first_run: the command that makes the first number of ours.
        has_ours: whether any number of ours is in it.
        message: why there is none of ours if the results could not be read; else empty.
    """

    number: int
    title: str
    caption: str
    protocol: str
    selection: str
    labels: tuple[str, ...]
    method_label: int
    last_labels: int
    stub: str
    stub_text: str
    panels: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    first_run: str
    has_ours: bool
    message: str = ""

    @property
    def numbers(self) -> tuple[Number, ...]:
        """All numbers, row by row."""
        return tuple(
            number for row in self.rows for cell in row.cells.values() for number in cell.numbers
        )


@dataclass(frozen=True)
class TableTitle:
    """What a list of tables shows of one."""

    number: int
    title: str
