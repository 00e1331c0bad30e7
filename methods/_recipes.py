"""Recipes shared by methods: the settings in which a run differs from the defaults.

Each function returns nested overrides of ``harness.config.RunConfig``. The first functions set the
dataset, the model and the number of epochs; the others add a kind of training. Recipes for
``digits`` and ``fashion-mnist`` are this project's small-scale settings; those for CIFAR follow
released code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from harness.config import merge
from harness.method import Recipe

Overrides = dict[str, Any]

CIFAR_EPS = 8 / 255


def digits() -> Overrides:
    """Natural training of a small model on 8 x 8 digits, without flips."""
    return {
        "data": {"name": "digits", "crop_padding": 1, "flip": False},
        "model": {"arch": "resnet8"},
        "training": {"epochs": 24, "batch_size": 64, "optimizer": {"lr": 0.1}},
        # Half of the 360 test images for each of two cores.
        "evaluation": {"eps": 0.15, "chunk_size": 180, "workers": 2},
    }


def fashion_mnist() -> Overrides:
    """Natural training of a small model on Fashion-MNIST."""
    return {
        "data": {"name": "fashion-mnist", "crop_padding": 2, "flip": True},
        "model": {"arch": "resnet20"},
        "training": {"epochs": 30, "batch_size": 128, "optimizer": {"lr": 0.1}},
        "evaluation": {"eps": 0.1},
    }


def cifar10() -> Overrides:
    """Natural training of the paper's model: SGD from 0.1, cosine, 200 epochs."""
    return {
        "data": {"name": "cifar10", "crop_padding": 4, "flip": True},
        "model": {"arch": "wrn-34-10"},
        "training": {
            "epochs": 200,
            "batch_size": 128,
            "optimizer": {"lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine"},
        },
        "evaluation": {"eps": CIFAR_EPS},
    }


def cifar100() -> Overrides:
    """The settings of CIFAR-10."""
    return merge(cifar10(), {"data": {"name": "cifar100"}})


DATASETS: Mapping[str, Callable[[], Overrides]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}

Training = Callable[[str], Overrides]


def natural(dataset: str) -> Overrides:
    """Training without an attack."""
    return DATASETS[dataset]()


def adversarial(dataset: str) -> Overrides:
    """Training with a fixed attack at the evaluation's radius: ten steps of a quarter of it."""
    base = natural(dataset)
    eps = base["evaluation"]["eps"]
    attack = {"eps": eps, "step_rule": "fixed", "steps": 10, "step_size": eps / 4}
    return merge(base, {"training": {"attack": attack}})


def growing_epsilon(dataset: str) -> Overrides:
    """The training of the paper's own rows, as in its released scripts.

    The radius grows over the epochs, and each attack takes five steps of half the radius. Weights
    are perturbed adversarially and averaged over epochs. The released scripts use four devices, so
    BatchNorm normalises over 32 images.
    """
    base = merge(
        adversarial(dataset),
        {
            "training": {
                "optimizer": {"lr": 0.2, "weight_decay": 5e-4, "schedule": "cosine-inclusive"},
                "attack": {"ramp": "linear", "step_rule": "five-halves"},
                "weight_perturbation": {"gamma": 0.005, "start_epoch": 10},
                "averaging": {"kind": "epoch", "decay": 0.9, "start_epoch": 1},
                "batchnorm_replicas": 4,
            }
        },
    )
    small: Overrides = {
        "optimizer": {"lr": 0.1},
        "weight_perturbation": {"start_epoch": 5},
        "averaging": {"decay": 0.5},
        "batchnorm_replicas": 1,
    }
    return merge(base, {"training": small}) if dataset in SMALL else base


def trades_training(dataset: str) -> Overrides:
    """The training released with TRADES: 76 epochs at radius 0.031, just under 8/255."""
    return _cifar_only(
        adversarial(dataset),
        {
            "epochs": 76,
            "optimizer": {"weight_decay": 2e-4, "schedule": "steps", "milestones": (74,)},
            "attack": {"eps": 0.031, "step_size": 0.007},
        },
    )


def piecewise(dataset: str) -> Overrides:
    """200 epochs, radius 8/255, step size 2/255; the rate falls tenfold at 50 % and at 75 %."""
    return _cifar_only(
        adversarial(dataset),
        {
            "optimizer": {"schedule": "steps", "milestones": (100, 150)},
            "attack": {"eps": CIFAR_EPS, "step_size": 2 / 255},
        },
    )


def uniform_start(dataset: str) -> Overrides:
    """``piecewise`` as released for PGD adversarial training.

    The attack starts at a uniformly random point of the ball and runs on the model in training
    mode. On CIFAR the input is standardised, and the result is the epoch that is most robust on
    held-out training images.
    """
    base = merge(
        piecewise(dataset), {"training": {"attack": {"start": "uniform", "model_mode": "train"}}}
    )
    if dataset in SMALL:
        return base
    held_out: Overrides = {
        "data": {"val_size": 1000},
        "model": {"normalize": True},
        "training": {"selection": {"rule": "best-on-val", "pgd_steps": 10}},
    }
    return merge(base, held_out)


# As in the literature: the epoch is chosen on the test images, which tables mark.
CHOSEN_ON_TEST: Overrides = {
    "data": {"val_size": 0},
    "training": {"selection": {"rule": "best-on-test"}},
}

SMALL = frozenset({"digits", "fashion-mnist"})


def _cifar_only(base: Overrides, training: Overrides) -> Overrides:
    """``base`` with ``training`` on CIFAR; small-scale recipes keep their own budget."""
    return base if base["data"]["name"] in SMALL else merge(base, {"training": training})


def by_dataset(
    training: Training, changes: Mapping[str, Overrides] | None = None
) -> dict[str, Recipe]:
    """One recipe per dataset, under its name: ``training`` with the dataset's ``changes``."""
    return {
        dataset: changed(partial(training, dataset), (changes or {}).get(dataset, {}))
        for dataset in DATASETS
    }


def changed(recipe: Recipe, changes: Overrides) -> Recipe:
    """``recipe`` with ``changes`` merged into it."""
    return partial(_merged, recipe, changes)


def _merged(recipe: Recipe, changes: Overrides) -> Overrides:
    return merge(recipe(), changes)


def best_on_test(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The CIFAR recipes with the epoch chosen on the test images, under names that say so."""
    return {
        f"{dataset}-best-on-test": changed(recipes[dataset], CHOSEN_ON_TEST)
        for dataset in ("cifar10", "cifar100")
    }


def one_at_a_time(
    first: Iterable[int], second: Iterable[int], centre: tuple[int, int]
) -> list[tuple[int, int]]:
    """All pairs in which at least one of the two settings has the centre's value."""
    pairs = [(value, centre[1]) for value in first] + [(centre[0], value) for value in second]
    return sorted(set(pairs))
