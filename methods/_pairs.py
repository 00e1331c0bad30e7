"""Teacher-student pairs of the paper's distillation tables, and the trainings that they share.

Each function returns nested overrides of ``harness.config.RunConfig``. CIFAR-100 and ImageNet
follow the released code of the distillation literature (RepDistiller, mdistiller); ``digits`` and
``fashion-mnist`` are small-scale settings of this project, CIFAR-10 borrows from CIFAR-100.

Recipes of a pair are named by table and pair, such as ``table5/resnet56-resnet20``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from harness.config import merge
from harness.method import Recipe
from methods._recipes import CIFAR_EPS, DATASETS, SMALL, Overrides, changed

IMAGENET_EPS = 4 / 255
# How far, in points, a teacher may stay below the printed accuracy before that is an error: its
# seeds spread over less than one.
TOLERATED_POINTS = 2.0


@dataclass(frozen=True)
class Pair:
    """A column of Tables 3, 5 or 7.

    Attributes:
        table: which.
        teacher: the teacher's architecture.
        student: the student's.
        teacher_top1: the teacher's printed top-1 accuracy in per cent.
    """

    table: int
    teacher: str
    student: str
    teacher_top1: float

    @property
    def name(self) -> str:
        """Both architectures, without the data set that their names may begin with."""
        return "-".join(arch.removeprefix("imagenet-") for arch in (self.teacher, self.student))

    @property
    def recipe(self) -> str:
        """The name of the pair's recipes."""
        return f"table{self.table}/{self.name}"

    @property
    def dataset(self) -> str:
        """The data set of its table."""
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
DEFAULT_PAIR = {
    "cifar10": "resnet56-resnet20",
    "cifar100": "resnet56-resnet20",
    "imagenet": "resnet34-resnet18",
}
# The literature prints some rows from the last epoch and some from the best on test.
BOTH_RULES: Overrides = {"training": {"selection": {"track_test": True}}}
# These train from a lower rate on CIFAR.
LIGHT = frozenset({"mobilenet-v2", "shufflenet-v1", "shufflenet-v2"})


def cifar(dataset: str, arch: str) -> Overrides:
    """240 epochs at batch 64; the rate falls tenfold after epochs 150, 180 and 210."""
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
    """100 epochs at batch 512; the rate falls tenfold after epochs 30, 60 and 90."""
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
    """Another batch size on ImageNet, with the learning rate in proportion."""
    return {"training": {"batch_size": size, "optimizer": {"lr": 0.2 * size / 512}}}


def natural(dataset: str, arch: str) -> Overrides:
    """The literature's training of a network on ``dataset`` by labels alone."""
    return imagenet(arch) if dataset == "imagenet" else cifar(dataset, arch)


def distilled(pair: Pair, dataset: str) -> Overrides:
    """The training of the pair's student, with a teacher of the same training.

    On ImageNet the teacher is torchvision's; ``teacher.source=auto`` trains it here.
    """
    # The table's accuracy is that on the table's data set.
    expected = round(pair.teacher_top1 - TOLERATED_POINTS, 2) / 100
    minimum = expected if dataset == pair.dataset else 0.0
    teacher = {
        "arch": pair.teacher,
        "method": "vanilla",
        # The data set may have no recipe of its name, so the table's is laid under the training.
        "recipe": f"table{pair.table}/{pair.teacher.removeprefix('imagenet-')}",
        "config": natural(dataset, pair.teacher),
        "minimum": minimum,
    }
    if dataset == "imagenet":
        # The published weights that the literature distils from.
        teacher["source"] = "torchvision:" + pair.teacher.removeprefix("imagenet-")
    return merge(merge(natural(dataset, pair.student), BOTH_RULES), {"teacher": teacher})


def small(dataset: str) -> Overrides:
    """A small teacher and a smaller student, each trained for some seconds or minutes."""
    teacher_epochs, epochs, minimum = {
        "digits": (10, 15, 0.95),
        "fashion-mnist": (15, 15, 0.88),
    }[dataset]
    base = merge(DATASETS[dataset](), {"evaluation": {"attacks": []}})
    optimizer: Overrides = {"training": {"optimizer": {"lr": 0.05}}}
    teacher = {
        "arch": "resnet20",
        "method": "vanilla",
        "config": merge(base, {"training": {"epochs": teacher_epochs}}),
        "minimum": minimum,
    }
    student = {"model": {"arch": "resnet8"}, "training": {"epochs": epochs}}
    return merge(merge(merge(base, optimizer), merge(student, BOTH_RULES)), {"teacher": teacher})


Settings = Callable[[Pair], Overrides]


def no_changes(pair: Pair) -> Overrides:
    """The same parameters on all pairs: the method's defaults."""
    return {}


def recipes(
    settings: Settings = no_changes,
    *,
    pairs: Iterable[str] = PAIRS,
    small_changes: Overrides | None = None,
) -> dict[str, Recipe]:
    """A method's recipes: one a data set, of its name, and one a pair, of its table and name.

    Args:
        settings: what the method changes for a pair.
        pairs: names of the pairs that it has recipes for.
        small_changes: what it changes on the small data sets.
    """
    kept = {name: PAIRS[name] for name in pairs}
    small_recipes = {name: partial(small, name) for name in sorted(SMALL)}
    found: dict[str, Recipe] = {
        name: changed(recipe, small_changes or {}) for name, recipe in small_recipes.items()
    }
    for dataset, name in DEFAULT_PAIR.items():
        if name in kept:
            found[dataset] = partial(_recipe, settings, kept[name], dataset)
    for pair in kept.values():
        found[pair.recipe] = partial(_recipe, settings, pair, pair.dataset)
    return found


def _recipe(settings: Settings, pair: Pair, dataset: str) -> Overrides:
    return merge(distilled(pair, dataset), settings(pair))


def natural_recipes() -> dict[str, Recipe]:
    """Training by labels alone of each teacher and student, named by table and architecture."""
    return {
        f"table{pair.table}/{arch.removeprefix('imagenet-')}": partial(natural, pair.dataset, arch)
        for pair in PAIRS.values()
        for arch in (pair.teacher, pair.student)
    }


def last_epoch_note(pairs: Iterable[str] = CIFAR_PAIRS) -> dict[str, str]:
    """What rows that are printed from the last epoch must say."""
    note = (
        "The printed number is that of the last epoch, as the literature it is quoted from has it; "
        "rows such as IKL-KD's and DKD's print the best epoch on test."
    )
    return {PAIRS[name].recipe: note for name in pairs}
