"""What a file of ``leaderboards.paper`` declares of its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leaderboards.table import PRINTED_ROW

Facts = Mapping[str, str]


@dataclass(frozen=True)
class ColumnSpec:
    """One column of numbers.

    Attributes:
        key: its name in the table.
        heads: its titles from top to bottom.
        metric: as ``reported.csv`` calls it.
        where: facts that its lines of ``reported.csv`` share.
        decimals: digits after the point.
        unit: written after each number.
        lower_is_better: which end is the best.
        comparable: whether a number of another machine can be set against a printed one.
        help: what the number is.
    """

    key: str
    heads: tuple[str, ...]
    metric: str
    where: Facts = field(default_factory=dict)
    decimals: int = 2
    unit: str = ""
    lower_is_better: bool = False
    comparable: bool = True
    help: str = ""


@dataclass(frozen=True)
class RowSpec:
    """One printed row.

    Attributes:
        labels: one text a label column.
        where: facts of its lines in ``reported.csv``.
        group: its section.
        kind: of ``leaderboards.table``: printed, head or difference.
        metric: of a head row, the metric in place of its columns'.
        network: of a head row, which fact names the network whose accuracy it is.
        minus: of a difference, the places in the table, from 0, of the rows (of, from).
        method: registered name of the method that makes it; empty if none does.
        params: parameters that our run must have.
        recipe: the recipe that makes it.
        selection: how the epoch of the printed number was chosen, as far as that is known.
        notes: what a reader must know of it, with the evidence.
    """

    labels: tuple[str, ...]
    where: Facts
    group: str = ""
    kind: str = PRINTED_ROW
    metric: str = ""
    network: str = ""
    minus: tuple[int, int] | None = None
    method: str = ""
    params: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""
    selection: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """What like rows are compared with.

    Attributes:
        title: its name for readers.
        like: facts of the rows that it is a baseline of; empty facts fit all.
        where: facts of its lines in ``reported.csv``, the table among them.
        method: registered name of the method whose runs are our baseline.
        same: facts that a row shares with its baseline; the baseline's lines are sought with them.
    """

    title: str
    like: Facts
    where: Facts
    method: str
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class DifferenceSpec:
    """A column of differences that print does not have.

    Attributes:
        of: key of the column that is compared.
        title: its title.
        baselines: the first that is like a row counts.
        help: what the number is.
    """

    of: str
    title: str
    baselines: tuple[Baseline, ...]
    help: str


@dataclass(frozen=True)
class Disputed:
    """Lines of ``reported.csv`` that the paper contradicts, and the evidence."""

    where: Facts
    evidence: str
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Logged:
    """Numbers, metric to percent, of the authors' released log of one row."""

    where: Facts
    values: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class InclusionRule:
    """Which of our runs that match no printed row get rows of their own.

    Attributes:
        datasets: registered names.
        small: whether every data set that the paper does not use is as welcome.
        tasks: natural, adversarial, distillation.
        methods: registered names; empty for all.
        labels: a fact for each label column: ``name`` or one of ``RenderedRow.facts``.
    """

    datasets: tuple[str, ...]
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    small: bool = False
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableSpec:
    """A table of the paper.

    Attributes:
        number: its number.
        title: a few words.
        caption: what it shows.
        protocol: what its numbers share.
        selection: whose weights the printed numbers are of.
        labels: titles of the label columns.
        method_label: which of them names the method.
        columns: columns of numbers.
        rows: rows in print's order.
        where: facts that all its lines share.
        welcome: which other runs may enter.
        first_run: the command that makes the first number.
        attacked: whether our runs must have been attacked as the paper does.
        models: of how many models a printed accuracy is the mean; 1 gets an interval.
        images: test images.
        compete: facts that rows must share for their numbers to be ranked; ``group`` is one.
        last_labels: how many label columns stand behind the numbers in print.
        stub: title of the column of sections; empty if print has none.
        stub_text: the one text in that column; else it is the section.
        panels: section to the caption of its panel, where sections are tables of their own.
        differences: added columns.
        threat: data set and radius of RobustBench's entries that may stand beside.
        disputed: contradictions.
        logged: numbers of the authors' logs.
        remarks: what a reader must know of the table.
    """

    number: int
    title: str
    caption: str
    protocol: str
    selection: str
    labels: tuple[str, ...]
    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]
    where: Facts
    welcome: InclusionRule
    first_run: str
    method_label: int = 0
    attacked: bool = True
    models: int = 1
    images: int = 10_000
    compete: tuple[str, ...] = ()
    last_labels: int = 0
    stub: str = ""
    stub_text: str = ""
    panels: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[DifferenceSpec, ...] = ()
    threat: tuple[str, str] | None = None
    disputed: tuple[Disputed, ...] = ()
    logged: tuple[Logged, ...] = ()
    remarks: tuple[str, ...] = ()

    def facts_of(self, row: RowSpec, column: ColumnSpec) -> Facts:
        """The facts of the one line of ``reported.csv`` that stands at a place."""
        return {
            "table": str(self.number),
            **self.where,
            **row.where,
            **column.where,
            "metric": row.metric or column.metric,
        }
