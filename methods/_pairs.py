"""Teacher-student pairs of the paper's distillation tables, and their recipes.

Recipes return nested overrides of ``harness.config.RunConfig``. CIFAR-100 and ImageNet follow the
released code of the distillation literature (RepDistiller, mdistiller); ``digits`` and
``fashion-mnist`` use this project's small-scale settings, and CIFAR-10 uses those of CIFAR-100.

A pair's recipe is named after its table and archs, such as ``table5/resnet56-resnet20``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from harness.config import merge
from harness.method import Recipe
from methods._recipes import CIFAR_EPS, DATASETS, SMALL, Overrides

IMAGENET_EPS = 4 / 255
# A teacher more than this many points below its printed accuracy is rejected; seeds differ by less
# than one point.
TOLERATED_POINTS = 2.0


@dataclass(frozen=True)
class Pair:
    """A column of Tables 3, 5 or 7.

    Attributes:
        table: the table's number.
        teacher: the teacher's arch.
        student: the student's arch.
        teacher_top1: the teacher's printed top-1 accuracy in per cent.
    """

    table: int
    teacher: str
    student: str
    teacher_top1: float

    @property
    def name(self) -> str:
        """Teacher and student arch joined by a hyphen, without the prefix ``imagenet-``."""
        return "-".join(arch.removeprefix("imagenet-") for arch in (self.teacher, self.student))

    @property
    def recipe(self) -> str:
        """Name of the pair's recipe."""
        return f"table{self.table}/{self.name}"

    @property
    def dataset(self) -> str:
        """Dataset of the pair's table."""
        return "imagenet" if self.table == 3 else "cifar100"


PAIRS = {
    pair.name: pair
    for pair in (
        Pair(3, "imagenet-resnet34", "imagenet-resnet18", 73.31),
        Pair(3, "imagenet-resnet50", "mobilenet-v1", 76.16),
        Pair(5, "resnet56", "resnet20", 72.34),
        Pair(5, "resnet110", "resnet32", 74.31),
        Pair(5, "resnet32x4", "resnet8x4", 79.42),
        Pair(5, "wrn-40-2", "wrn-16-2", 75.61),
        Pair(5, "wrn-40-2", "wrn-40-1", 75.61),
        Pair(5, "vgg13", "vgg8", 74.64),
        Pair(7, "resnet32x4", "shufflenet-v1", 79.42),
        Pair(7, "wrn-40-2", "shufflenet-v1", 75.61),
        Pair(7, "vgg13", "mobilenet-v2", 74.64),
        Pair(7, "resnet50", "mobilenet-v2", 79.34),
        Pair(7, "resnet32x4", "shufflenet-v2", 79.42),
    )
}
CIFAR_PAIRS = tuple(name for name, pair in PAIRS.items() if pair.dataset == "cifar100")
# Pairs whose stages have the same number of channels in both models.
SAME_CHANNELS = (
    "resnet56-resnet20",
    "resnet110-resnet32",
    "resnet32x4-resnet8x4",
    "wrn-40-2-wrn-16-2",
    "vgg13-vgg8",
)
DEFAULT_PAIR = {
    "cifar10": "resnet56-resnet20",
    "cifar100": "resnet56-resnet20",
    "imagenet": "resnet34-resnet18",
}
# The literature reports the last epoch for some rows and the best test epoch for others.
BOTH_RULES: Overrides = {"training": {"selection": {"track_test": True}}}
# Archs with a lower learning rate on CIFAR.
LIGHT = frozenset({"mobilenet-v2", "shufflenet-v1", "shufflenet-v2"})


def cifar(dataset: str, arch: str) -> Overrides:
    """240 epochs, batch size 64; the learning rate falls tenfold after epochs 150, 180 and 210."""
    return {
        "data": {"name": dataset, "crop_padding": 4, "flip": True},
        "model": {"arch": arch, "normalize": True},
        "training": {
            "epochs": 240,
            "batch_size": 64,
            "optimizer": {
                "lr": 0.01 if arch in LIGHT else 0.05,
                "weight_decay": 5e-4,
                "schedule": "steps",
                "milestones": [150, 180, 210],
            },
        },
        "evaluation": {"eps": CIFAR_EPS, "attacks": []},
    }


def imagenet(arch: str) -> Overrides:
    """100 epochs, batch size 512; the learning rate falls tenfold after epochs 30, 60 and 90."""
    return {
        "data": {"name": "imagenet", "flip": True},
        "model": {"arch": arch, "normalize": True},
        "training": {
            "epochs": 100,
            "batch_size": 512,
            "optimizer": {
                "lr": 0.2,
                "weight_decay": 1e-4,
                "schedule": "steps",
                "milestones": [30, 60, 90],
            },
        },
        "evaluation": {"eps": IMAGENET_EPS, "attacks": []},
    }


def imagenet_batch(size: int) -> Overrides:
    """Another batch size on ImageNet, with a proportional learning rate."""
    return {"training": {"batch_size": size, "optimizer": {"lr": 0.2 * size / 512}}}


def natural(dataset: str, arch: str) -> Overrides:
    """The literature's training of a model on ``dataset`` from labels only."""
    return imagenet(arch) if dataset == "imagenet" else cifar(dataset, arch)


def distilled(pair: Pair, dataset: str) -> Overrides:
    """Distillation of the pair's student from a teacher that is trained with the same settings.

    On ImageNet the teacher is torchvision's; ``teacher.source=auto`` trains one instead.
    """
    # The printed accuracy holds for the table's dataset only.
    expected = round(pair.teacher_top1 - TOLERATED_POINTS, 2) / 100
    minimum = expected if dataset == pair.dataset else 0.0
    teacher = {
        "arch": pair.teacher,
        "method": "vanilla",
        # No recipe is named after ImageNet, so the table's recipe is the base.
        "recipe": f"table{pair.table}/{pair.teacher.removeprefix('imagenet-')}",
        "config": natural(dataset, pair.teacher),
        "minimum": minimum,
    }
    if dataset == "imagenet":
        # The published weights from which the literature distils.
        teacher["source"] = "torchvision:" + pair.teacher.removeprefix("imagenet-")
    return merge(merge(natural(dataset, pair.student), BOTH_RULES), {"teacher": teacher})


def small(dataset: str) -> Overrides:
    """A small teacher and a smaller student that train in seconds or minutes."""
    teacher_epochs, minimum = {"digits": (10, 0.95), "fashion-mnist": (15, 0.88)}[dataset]
    base = merge(DATASETS[dataset](), {"evaluation": {"attacks": []}})
    optimizer: Overrides = {"training": {"optimizer": {"lr": 0.05}}}
    teacher = {
        "arch": "resnet20",
        "method": "vanilla",
        "config": merge(base, {"training": {"epochs": teacher_epochs}}),
        "minimum": minimum,
    }
    student = {"model": {"arch": "resnet8"}, "training": {"epochs": 15}}
    return merge(merge(merge(base, optimizer), merge(student, BOTH_RULES)), {"teacher": teacher})


Settings = Callable[[Pair], Overrides]


def two_stages(pair: Pair) -> Overrides:
    """A first stage of 30 epochs before the 240 of ``cifar``, as in RepDistiller."""
    return {"training": {"epochs": 270, "optimizer": {"milestones": [180, 210, 240]}}}


def recipes(
    settings: Settings = lambda pair: {},
    *,
    pairs: Iterable[str] = PAIRS,
    small_changes: Overrides | None = None,
) -> dict[str, Recipe]:
    """A method's recipes: one per dataset, and one per pair, named after its table and archs.

    Args:
        settings: returns the method's changes for a pair; by default none.
        pairs: names of the pairs that get recipes.
        small_changes: the method's changes on the small datasets.
    """
    return recipes_from(
        lambda dataset: merge(small(dataset), small_changes or {}),
        lambda pair, dataset: merge(distilled(pair, dataset), settings(pair)),
        pairs=pairs,
    )


def recipes_from(
    on_small: Callable[[str], Overrides],
    on_pair: Callable[[Pair, str], Overrides],
    *,
    pairs: Iterable[str] = CIFAR_PAIRS,
) -> dict[str, Recipe]:
    """The recipes of ``recipes`` for a method that does not start from ``small`` and ``distilled``.

    Args:
        on_small: returns the settings on a small dataset.
        on_pair: returns the settings of a pair on a dataset, the table's or CIFAR-10.
        pairs: names of the pairs that get recipes.
    """
    own_pairs = {name: PAIRS[name] for name in pairs}
    found: dict[str, Recipe] = {name: partial(on_small, name) for name in sorted(SMALL)}
    for dataset, name in DEFAULT_PAIR.items():
        if name in own_pairs:
            found[dataset] = partial(on_pair, own_pairs[name], dataset)
    return found | {
        pair.recipe: partial(on_pair, pair, pair.dataset) for pair in own_pairs.values()
    }


def natural_recipes() -> dict[str, Recipe]:
    """Natural training of each teacher and student, named by table and arch."""
    return {
        f"table{pair.table}/{arch.removeprefix('imagenet-')}": partial(natural, pair.dataset, arch)
        for pair in PAIRS.values()
        for arch in (pair.teacher, pair.student)
    }


def last_epoch_note(pairs: Iterable[str] = CIFAR_PAIRS) -> dict[str, str]:
    """The note for rows that print the accuracy of the last epoch."""
    note = (
        "The printed number is from the last epoch, as in the literature it is quoted from; other "
        "rows, such as those of IKL-KD and DKD, print the best epoch on the test images."
    )
    return {PAIRS[name].recipe: note for name in pairs}
