"""Made-up stores of the size of whole studies: every method of a family, several seeds of each."""

from __future__ import annotations

from pathlib import Path

from harness.config import RunConfig
from harness.registry import METHODS
from harness.store.database import Database
from tests.leaderboards.conftest import adding_to

IMAGES = 500
# A study's methods: their registered names, and of every seed how many images each is right on.
Study = dict[str, list[int]]


def methods_of(family: str) -> list[str]:
    """The registered methods of a family."""
    cards, _ = METHODS.load_all()
    return [name for name, method in cards.items() if method.card.family == family]


def distillation_study(results: Path, seeds: int = 3) -> Study:
    """Every distillation method from resnet20 to resnet8 on CIFAR-100, and no distillation.

    Methods of two stages have an epoch more.
    """
    names = [*methods_of("distillation"), "vanilla"]
    study = {
        name: [90 + 2 * place + (7 * place + 5 * seed) % 13 for seed in range(seeds)]
        for place, name in enumerate(names)
    }
    for name, right in study.items():
        for seed, left in enumerate(right):
            _add(results, name, "cifar100", (left,), (), seed)
    assert not Database(results).rebuild().unreadable
    return study


def adversarial_study(results: Path) -> Study:
    """Every adversarial method with resnet8 on CIFAR-10, one seed, under the fast pair."""
    names = methods_of("adversarial")
    study = {name: [60 + 3 * ((7 * place) % 25)] for place, name in enumerate(names)}
    for name, (left,) in study.items():
        _add(results, name, "cifar10", (260, left + 20, left), ("apgd-ce", "apgd-t"), 0)
    assert not Database(results).rebuild().unreadable
    return study


def _add(
    results: Path,
    name: str,
    dataset: str,
    left: tuple[int, ...],
    attacks: tuple[str, ...],
    seed: int,
) -> None:
    method = METHODS.get(name)
    stages = {"first_stage": 0.1} if "first_stage" in method.params.model_fields else {}
    config = RunConfig(method=name, seed=seed, params=stages).model_dump(mode="json")
    config["data"] |= {"train_limit": 10_000}
    config["training"] |= {"epochs": 9 if stages else 8}
    config["model"] |= {"arch": "resnet8"}
    adding_to(results)(
        name,
        left,
        n=IMAGES,
        seed=seed,
        dataset=dataset,
        teacher="resnet20" if method.card.needs_teacher and dataset == "cifar100" else None,
        attacks=attacks,
        params=stages,
        config=config,
        method_title=method.card.title,
        task=method.card.family,
        partial=True,
        protocol={"eps": 8 / 255, "partial": True, "model_sha256": name},
        record=False,
    )
