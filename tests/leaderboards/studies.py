"""Made-up stores of the size of whole studies: every method of a family, several seeds of each."""

from __future__ import annotations

import json
import runpy
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.registry import METHODS
from tests.leaderboards.conftest import accuracy

BULK_STORE = Path(__file__).parents[2] / "benchmarks" / "bulk_store.py"
IMAGES = 500
FAST_PAIR = ("apgd-ce", "apgd-t")
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
    _store(results, "cifar100", {name: [(left,) for left in study[name]] for name in study}, ())
    return study


def adversarial_study(results: Path) -> Study:
    """Every adversarial method with resnet8 on CIFAR-10, one seed, under the fast pair."""
    names = methods_of("adversarial")
    study = {name: [60 + 3 * ((7 * place) % 25)] for place, name in enumerate(names)}
    left = {name: [(260, last + 20, last)] for name, (last,) in study.items()}
    _store(results, "cifar10", left, FAST_PAIR)
    return study


def _store(
    results: Path,
    dataset: str,
    left: dict[str, list[tuple[int, ...]]],
    attacks: tuple[str, ...],
) -> None:
    """Insert runs of which clean and each attack leave so many images; the first break first."""
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("runs", "evaluations", "metrics", "verdicts")
    }
    for name, seeds in left.items():
        for seed, counts in enumerate(seeds):
            key = {"run_id": f"{name}-{dataset}-{seed}", "evaluation_id": "e"}
            tables["runs"].append(_run(name, dataset, seed) | {"run_id": key["run_id"]})
            tables["evaluations"].append(_evaluation(attacks) | key)
            stages = ("clean", *attacks)
            tables["metrics"] += [
                key | {"name": stage} | accuracy(count, IMAGES)
                for stage, count in zip(stages, counts, strict=True)
            ]
            tables["verdicts"] += [
                key | {"index": index, "label": 0, "broken_by": _broken_by(index, counts, stages)}
                for index in range(IMAGES)
            ]
    runpy.run_path(str(BULK_STORE))["insert"](results, **tables)


def _run(name: str, dataset: str, seed: int) -> dict[str, Any]:
    method = METHODS.get(name)
    stages = {"first_stage": 0.1} if "first_stage" in method.params.model_fields else {}
    epochs = 9 if stages else 8
    config = {"params": stages, "data": {"val_size": 1000}, "training": {"epochs": epochs}}
    distilled = method.card.needs_teacher and dataset == "cifar100"
    return {
        "kind": "trained", "status": "success", "method": name, "method_title": method.card.title,
        "task": method.card.family, "dataset": dataset, "arch": "resnet8", "recipe": dataset,
        "teacher": "resnet20" if distilled else None, "recipe_changes": "{}", "scale": "small",
        "partial": True, "seed": seed, "seed_group": f"{name}-{dataset}", "selection": "last",
        "train_limit": 10_000, "epochs_planned": epochs, "config": json.dumps(config),
        "config_passed": "{}", "source": "{}", "provenance": "{}", "git_dirty": False,
        "started_at": datetime(2026, 1, 1),
    }  # fmt: skip


def _evaluation(attacks: tuple[str, ...]) -> dict[str, Any]:
    protocol = {
        "norm": "Linf", "eps": 8 / 255, "n": IMAGES, "precision": "float32", "partial": True,
        "attack_version": f"custom({','.join(attacks)}) pyautoattack-0.2.0",
        "index_sha256": "1" * 64, "data_sha256": "2" * 64, "model_sha256": "3" * 64,
    }  # fmt: skip
    return protocol | {
        "status": "success", "attacks": ",".join(attacks), "flags": "[]",
        "protocol": json.dumps(protocol | {"attacks": attacks}),
        "finished_at": datetime(2026, 1, 2),
    }  # fmt: skip


def _broken_by(index: int, counts: tuple[int, ...], stages: tuple[str, ...]) -> str | None:
    left = [stage for stage, count in zip(stages, counts, strict=True) if index < IMAGES - count]
    return left[0] if left else None
