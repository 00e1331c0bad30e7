"""Classes with which ``leaderboards.paper`` declares its tables, and the names the paper uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leaderboards.table import PRINTED_ROW, Column, TableHeader

Facts = Mapping[str, str]

# Training data: no further images, as printed; and that of a model that was not trained here.
BASIC, UNKNOWN_DATA = "Basic", "unknown"
# How the epoch of a number was chosen.
LAST, BEST_ON_TEST = "last", "best-on-test"

# Printed names and registered names.
DATASETS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "ImageNet": "imagenet"}
ARCHITECTURES = {
    "WRN-28-10": ("wrn-28-10", "wrn-28-10-silu"),
    "MobileNetV1": ("mobilenet-v1",),
    "ResNet18": ("resnet18", "imagenet-resnet18"),
    "ResNet34": ("resnet34", "imagenet-resnet34"),
    "ResNet50": ("resnet50", "imagenet-resnet50"),
}


def dataset_name(printed: str) -> str:
    """Return the registered name of a printed dataset; a registered name is unchanged."""
    return DATASETS.get(printed, printed)


def architecture_names(printed: str) -> tuple[str, ...]:
    """Return the registered names of a printed architecture; a registered name is unchanged."""
    return ARCHITECTURES.get(printed, (printed.lower(),))


def setting_facts(setting: str) -> dict[str, str]:
    """Return each ``name=value`` of a column ``setting``, such as ``alpha=20;beta=3``."""
    pairs = (part.partition("=") for part in setting.split(";"))
    return {name: value for name, equals, value in pairs if equals}


def arch_text(arch: str, teacher: str | None) -> str:
    """Return an architecture with the teacher it was distilled from."""
    return f"{arch} from {teacher}" if teacher else arch


@dataclass(frozen=True)
class ColumnSpec(Column):
    """One column of printed numbers.

    Attributes:
        printed: its metric's name in ``reported.csv``; empty for our name with underscores.
        where: facts that its lines of ``reported.csv`` share.
    """

    printed: str = ""
    where: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class RowSpec:
    """One printed row.

    Attributes:
        labels: one text for each label column.
        where: facts of its lines in ``reported.csv``.
        group: its section.
        kind: as in ``leaderboards.table``: printed, head or difference.
        metric: for a head row, the metric that replaces its columns'.
        arch_fact: for a head row, the fact that names the architecture it is about.
        minus: for a difference, the positions of its two rows in the table, from 0; the second is
            subtracted.
        method: registered name of the method that reproduces it; empty if none does.
        params: parameters that our run must have.
        recipe: the recipe that reproduces it.
        selection: how the epoch of the printed number was chosen, if known.
        notes: what a reader must know about it, with the evidence.
    """

    labels: tuple[str, ...]
    where: Facts
    group: str = ""
    kind: str = PRINTED_ROW
    metric: str = ""
    arch_fact: str = ""
    minus: tuple[int, int] | None = None
    method: str = ""
    params: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""
    selection: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """The row that others are compared with.

    Attributes:
        applies_to: facts of the rows that it is a baseline for; empty for all rows.
        where: facts of its lines in ``reported.csv``, including the table.
        method: registered name of the method whose runs are our baseline.
        same: facts that a row shares with its baseline, used to find the baseline's lines.
    """

    applies_to: Facts
    where: Facts
    method: str
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class DifferenceSpec:
    """A column, not in the paper, of differences between the column ``of`` and a baseline.

    The first of ``baselines`` that applies to a row is used.
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
    """Numbers for one row from the authors' released log, as metric to percent."""

    where: Facts
    values: Mapping[str, float]
    source: str = "AutoAttack log released with the paper's code"


@dataclass(frozen=True)
class Scale:
    """The size of the paper's training runs, as in their recipes.

    Attributes:
        dataset: as printed.
        arch: as printed.
        epochs: number of training epochs.
        train: number of training images.
        test: number of test images.
        eps: radius of the attack; 0 without one.
    """

    dataset: str
    arch: str
    epochs: int
    train: int
    test: int
    eps: float = 0.0


@dataclass(frozen=True)
class InclusionRule:
    """Which of our runs that match no printed row get their own rows.

    Attributes:
        datasets: registered names.
        tasks: natural, adversarial, distillation; a loaded model counts as natural.
        methods: registered names; empty for all.
        labels: a fact for each label column: ``name`` or one of ``Row.facts``.
    """

    datasets: tuple[str, ...]
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    methods: tuple[str, ...] = ()

    def accepts(self, *, dataset: str, task: str | None, method: str | None) -> bool:
        """Whether a run of this dataset, task and method is included."""
        return (
            dataset in self.datasets
            and (task or "natural") in self.tasks
            and (not self.methods or method in self.methods)
        )


@dataclass(frozen=True, kw_only=True)
class TableSpec(TableHeader):
    """A table of the paper; ``selection`` is that of the printed numbers.

    Attributes:
        where: facts that all its lines of ``reported.csv`` share.
        includes: which of our other runs get rows.
        attacked: whether our runs must have been evaluated with the paper's attack.
        models: number of models that a printed accuracy is the mean of.
        images: number of test images.
        ranked_within: facts that rows must share to be ranked together; may include ``group``.
        differences: columns of differences, computed here.
        threat: dataset and radius of the RobustBench board that its models are on.
        scale: size of the paper's runs, with which runs at small scale are compared.
    """

    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]
    where: Facts
    includes: InclusionRule
    attacked: bool = True
    models: int = 1
    images: int = 10_000
    ranked_within: tuple[str, ...] = ()
    differences: tuple[DifferenceSpec, ...] = ()
    threat: tuple[str, str] | None = None
    scale: Scale | None = None
    disputed: tuple[Disputed, ...] = ()
    logged: tuple[Logged, ...] = ()

    def facts_of(self, row: RowSpec, column: ColumnSpec) -> Facts:
        """Return the facts that identify the line of ``reported.csv`` for a row and column."""
        return {
            "table": str(self.number),
            **self.where,
            **row.where,
            **column.where,
            "metric": row.metric or column.printed or column.metric.replace("-", "_"),
        }
