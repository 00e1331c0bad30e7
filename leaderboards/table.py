"""The data of a leaderboard: numbers in cells, rows and columns. Every format renders a ``Table``.

Labels are plain text with a few symbols such as the Greek alpha. Accuracies are in percent,
differences in percentage points, times in seconds.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

# Badges that show where a number comes from, and the marks of doubtful numbers.
PRINTED = "P"
ROBUSTBENCH = "RB"
LOGGED = "L"
REPRODUCED = "R"
SMALL = "S"
DISPUTED = "!"
FLAGGED = "?"

MEANINGS = {
    PRINTED: "printed in the paper",
    DISPUTED: "printed in the paper, which contradicts itself here",
    LOGGED: "from the log released by the authors",
    ROBUSTBENCH: "published by RobustBench",
    REPRODUCED: "measured here at the paper's scale",
    SMALL: "measured here at small scale; never among the paper's rows",
    FLAGGED: "a measured number with reason to doubt it",
}

# Meanings of the intervals. Neither the paper nor RobustBench gives any.
INTERVAL = "95% interval (Wilson) from n test images, computed here for printed numbers too"
ANY_TIME = "95% interval of the accuracy on all test images, valid whenever an evaluation stops"
OF_MEANS = (
    "for a mean over seeds, Student's t interval, or that of one seed's images where it is wider"
)

PAIRED = (
    "95% interval of our difference on shared seeds and images: Newcombe's for one seed; for more "
    "seeds, Student's t where it is wider"
)

# Kinds of rows.
PRINTED_ROW = "printed"
HEAD_ROW = "head"
DIFFERENCE_ROW = "difference"
PUBLISHED_ROW = "published"
OURS_ROW = "ours"
# Begins the part of a ranking's section that says how the epoch of its rows was selected.
EPOCH = "Epoch: "

PARTIAL = "partial"
GREEK = {0x3B1: "a", 0x3B2: "b", 0x3C4: "t", 0x394: "delta"}


@dataclass(frozen=True)
class Number:
    """One number of a cell.

    Attributes:
        value: percent, seconds, or percentage points.
        badge: where it comes from: P, L, RB, R or S.
        low: lower end of the 95% interval, in the unit of ``value``. For one model it is Wilson's
            for ``n`` images; for a mean over seeds it is Student's t, or that of one model where
            this is wider. A printed mean of several models has that of one.
        high: its upper end.
        std: sample standard deviation (ddof 1) over seeds; as printed for a printed number.
        n: number of test images, if the number is an accuracy.
        sequential: whether the evaluation could stop early; its interval is not Wilson's, but valid
            whenever it stops.
        seeds: number of runs it is the mean of; None if unknown.
        bold: printed in bold; for ours, the best of the column in its section.
        underlined: printed underlined.
        disputed: the evidence against a printed number that the paper contradicts; else empty.
            Such a number is marked ``!``.
        note: damage and corrections; for ours, how it was trained and measured.
        run_ids: the runs it comes from.
        flags: reasons to doubt it, one sentence each. A number with flags is marked ``?``.
        from_print: ours minus the printed number of the same cell.
        apart: whether the intervals of ours and of the printed number are disjoint; None if the
            two are not compared.
        recomputed: for a printed difference, the difference of the printed numbers.
        difference: whether it is a difference, shown with its sign. Ours is the mean over shared
            seeds, and its interval is paired.
        pairs: for a difference of ours, the runs and evaluations that were subtracted: (run,
            evaluation, run of the baseline, evaluation of the baseline), one for each seed.
    """

    value: float
    badge: str
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n: int | None = None
    sequential: bool = False
    seeds: int | None = None
    bold: bool = False
    underlined: bool = False
    disputed: str = ""
    note: str = ""
    run_ids: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    from_print: float | None = None
    apart: bool | None = None
    recomputed: float | None = None
    difference: bool = False
    pairs: tuple[tuple[str, str, str, str], ...] = ()

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval to show with the value: of one model or a difference; None for a mean."""
        of_mean = self.std is not None or (self.seeds or 1) > 1
        if self.low is None or self.high is None or (of_mean and not self.difference):
            return None
        return self.low, self.high

    @property
    def marks(self) -> str:
        """``!`` if the number is disputed, ``?`` if it is flagged."""
        return DISPUTED * bool(self.disputed) + FLAGGED * bool(self.flags)

    def overlaps(self, other: Number) -> bool:
        """Whether the 95% intervals overlap; a number without one counts as its value alone."""
        low, high = self.span
        other_low, other_high = other.span
        return low <= other_high and other_low <= high

    @property
    def span(self) -> tuple[float, float]:
        """The 95% interval, of one model or of a mean; without one, the value as both ends."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )


@dataclass(frozen=True)
class Cell:
    """All numbers of one row and column.

    Attributes:
        printed: the printed number, or RobustBench's in a row for one of its entries.
        logged: the number in the authors' released log, if known.
        ours: measured here.
    """

    printed: Number | None = None
    logged: Number | None = None
    ours: Number | None = None

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers that the cell has, in reading order."""
        found = (self.printed, self.logged, self.ours)
        return tuple(number for number in found if number is not None)


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        key: its name in ``Row.cells``, in JSON and in CSV.
        heads: its titles from top to bottom, the same number in each column of a table; equal
            neighbours on the upper lines are merged.
        metric: clean, aa, sec_per_iter, or an attack's name for the accuracy after it.
        help: what the number is, in a sentence.
        decimals: digits after the point; None for three significant digits.
        unit: written after each number, empty for percent.
        lower_is_better: whether the smallest number is the best.
        comparable: whether our numbers may be compared with those printed from another machine.
        difference: whether it holds differences from a baseline, which are computed here and
            not printed in the paper.
        forest: whether its numbers and their intervals are drawn as a forest plot.
        seeds: whether a mean shows its number of seeds; False if one of the labels does.
    """

    key: str
    heads: tuple[str, ...]
    metric: str
    help: str = ""
    decimals: int | None = 2
    unit: str = ""
    lower_is_better: bool = False
    comparable: bool = True
    difference: bool = False
    forest: bool = False
    seeds: bool = True

    @property
    def title(self) -> str:
        """The titles in one line."""
        return " ".join(dict.fromkeys(head for head in self.heads if head))

    def rounded(self, value: float) -> float:
        """Return a value as the column shows it."""
        return value if self.decimals is None else round(value, self.decimals)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        kind: ``printed``, ``head`` (accuracy of a teacher or student alone), ``difference`` (of two
            printed rows), ``published`` (a RobustBench entry) or ``ours`` (measured here, with no
            printed row of the same kind).
        labels: one text for each label column; the method's is at ``Table.method_label``.
        group: the section, such as Features; rows of a section are adjacent. Rows of different
            sections are never ranked together.
        cells: cells by column key; a cell without numbers is left out.
        facts: for filters: ``method`` (registered name), ``arch``, ``teacher``, ``dataset``,
            ``augmentation`` (as printed; unknown for a loaded model), ``selection`` (last,
            best-on-val, best-on-test; empty where unknown),
            ``scale`` (paper or small) and ``source`` (the badges in the row, joined by commas). Our
            further rows have ``attack``: ``paper`` if it is the paper's.
        notes: what a reader must know about this row, with the evidence.
        command: the command that reproduces the row; empty if none does.
        rank: in a ranking, the ranks that the 95% intervals allow, such as ``1`` or ``2-4``, or
            ``partial``; else empty.
        key: identifies the row in URLs, unique in its table.
        partial: whether it was trained or measured on part of the data, and so has no rank.
        own: whether it contains the run that the table is about.
    """

    kind: str
    labels: tuple[str, ...]
    group: str = ""
    cells: Mapping[str, Cell] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""
    rank: str = ""
    key: str = ""
    partial: bool = False
    own: bool = False

    @property
    def numbers(self) -> tuple[Number, ...]:
        """All its numbers."""
        return tuple(number for cell in self.cells.values() for number in cell.numbers)

    @property
    def is_papers_attack(self) -> bool:
        """Whether accuracies under attack are for the paper's attack; ours may have others."""
        return self.kind != OURS_ROW or self.facts.get("attack") == "paper"

    def cell(self, key: str) -> Cell:
        """Return the cell of a column, which may be empty."""
        return self.cells.get(key, Cell())

    def number(self, key: str) -> Number | None:
        """Return the first number of a column."""
        return next(iter(self.cell(key).numbers), None)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs that its numbers come from, each once."""
        return tuple(dict.fromkeys(run for number in self.numbers for run in number.run_ids))

    @property
    def flags(self) -> tuple[str, ...]:
        """The reasons to doubt its numbers, each once."""
        return tuple(dict.fromkeys(flag for number in self.numbers for flag in number.flags))


@dataclass(frozen=True, kw_only=True)
class TableHeader:
    """The description of a table, without its numbers.

    Attributes:
        title: a few words.
        labels: titles of the label columns, which contain text.
        number: its number in the paper; 0 for a table that is not the paper's.
        caption: what it shows, in one or two sentences.
        protocol: what all its numbers share: dataset, threat model, attack.
        selection: which epoch the printed numbers are from, if known.
        method_label: index of the label column that names the method, from 0.
        last_labels: number of label columns that the paper prints after the numbers.
        stub: title of a column that names the section; empty if the paper has none.
        stub_text: the only text in that column; if empty, it has the sections' names.
        panels: section to its caption, if the paper prints each section as a separate table; else
            empty.
        remarks: what a reader must know about the table.
        first_run: the command that produces our first number.
        subject: registered names of the methods that the table is about; their rows are
            highlighted.
        slug: identifies a table without a number in URLs and file names.
    """

    title: str
    labels: tuple[str, ...]
    number: int = 0
    caption: str = ""
    protocol: str = ""
    selection: str = ""
    method_label: int = 0
    last_labels: int = 0
    stub: str = ""
    stub_text: str = ""
    panels: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    first_run: str = ""
    subject: tuple[str, ...] = ()
    slug: str = ""

    @property
    def name(self) -> str:
        """Number and title: ``Table 2: CIFAR-100 robust``."""
        return f"Table {self.number}: {self.title}" if self.number else self.title

    @property
    def anchor(self) -> str:
        """Name of the table in URLs, files and links: ``table-2``."""
        return f"table-{self.slug or self.number}"


@dataclass(frozen=True, kw_only=True)
class Table(TableHeader):
    """A table of the paper with our numbers next to the printed ones, or any other leaderboard.

    Attributes:
        columns: printed columns first, in the paper's order, then those that only ours need, then
            differences.
        rows: printed rows in the paper's order, then RobustBench's, then ours.
        has_ours: whether it has any number of ours.
        message: why it has no number of ours, if results were requested; else empty.
        ranked_by: key of the column that ranks the rows; empty for a table that is not a ranking.
        headline: a sentence or two on what it shows, in the paper and here.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    has_ours: bool = False
    message: str = ""
    ranked_by: str = ""
    headline: str = ""

    @property
    def numbers(self) -> tuple[Number, ...]:
        """All numbers, row by row."""
        return tuple(number for row in self.rows for number in row.numbers)

    @property
    def interval_meaning(self) -> str:
        """The meaning of the intervals of accuracies: one, or both if both occur."""
        kinds = {n.sequential for n in self.numbers if n.interval and not n.difference}
        if kinds == {True}:
            return ANY_TIME
        return f"{INTERVAL}; sequential: {ANY_TIME}" if True in kinds else INTERVAL

    def is_subject(self, row: Row) -> bool:
        """Whether a row is of a method that the table is about."""
        return row.facts.get("method", "") in self.subject

    def name_of(self, row: Row) -> str:
        """Return a row's name: its method, or all its labels if it has none."""
        return row.labels[self.method_label] or " ".join(filter(None, row.labels))


def with_keys(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows with keys: their labels in plain letters, numbered where they repeat."""
    seen: Counter[str] = Counter()
    keyed = []
    for row in rows:
        letters = unicodedata.normalize("NFKD", " ".join(row.labels).lower())
        name = re.sub("[^a-z0-9]+", "-", letters.translate(GREEK)).strip("-")[:60] or "row"
        seen[name] += 1
        keyed.append(replace(row, key=name if seen[name] == 1 else f"{name}-{seen[name]}"))
    return tuple(keyed)


def mark_best(cells: Sequence[dict[str, Cell]], column: Column) -> None:
    """Set ``bold`` on our best numbers of a column, if there are at least two numbers."""
    ours = [(cell, cell[column.key].ours) for cell in cells if column.key in cell]
    shown = [(cell, n, column.rounded(n.value)) for cell, n in ours if n is not None]
    if len(shown) < 2:
        return
    values = [value for *_, value in shown]
    best = min(values) if column.lower_is_better else max(values)
    for cell, number, value in shown:
        if value == best:
            bold = replace(number, bold=True)
            cell[column.key] = replace(cell[column.key], ours=bold)
