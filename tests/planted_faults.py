"""Ten faults to plant in the code, each a function that patches it with a ``MonkeyPatch``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.data.augment import Augmentation
from harness.data.loader import DeviceLoader
from harness.method import Batch
from harness.training import loop
from harness.training.schedules import inner_schedule
from harness.training.weight_perturbation import perturbed_parameters
from methods.losses import divergence
from methods.losses.class_means import ClassMeans

Fault = Callable[[pytest.MonkeyPatch], None]

USERS_OF_LOSSES = (
    "methods.adversarial.ikl",
    "methods.adversarial.dkl",
    "methods.adversarial.trades",
    "methods.distillation.kd",
    "methods.distillation.dkd",
    "methods.distillation.ikl_kd",
    "methods.distillation._decoupled",
    "methods.losses.logits",
)


def everywhere(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Replace a loss function in every module that imported it by name."""
    modules: list[ModuleType] = [divergence, *map(importlib.import_module, USERS_OF_LOSSES)]
    found = [module for module in modules if hasattr(module, name)]
    assert found, f"no module has {name}"
    for module in found:
        monkeypatch.setattr(module, name, value)


def wrong_sign_in_wmse(monkeypatch: pytest.MonkeyPatch) -> None:
    right = divergence.weighted_mse

    def wrong(logits_m: Tensor, logits_n: Tensor, weights_BC: Tensor) -> Tensor:
        return right(logits_m, -logits_n, weights_BC)

    everywhere(monkeypatch, "weighted_mse", wrong)


def class_means_not_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassMeans, "end_epoch", lambda self: None)


def attack_in_train_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    right = loop.attack_mode
    monkeypatch.setattr(loop, "attack_mode", lambda model, mode: right(model, "train"))


def epsilon_not_ramped(monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(config: Any, epoch: int, epochs: int) -> Any:
        return inner_schedule(config.model_copy(update={"ramp": "none"}), epoch, epochs)

    monkeypatch.setattr(loop, "inner_schedule", flat)


def teacher_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher is in training mode: it uses batch statistics and updates its running ones."""
    from harness.experiment import teacher

    right = teacher.teacher_logits_fn

    def thawed(config: Any, task: Any, found: Any, *rest: Any) -> Any:
        if found is None:
            return right(config, task, found, *rest)

        def teach(batch: Batch) -> Tensor:
            found.model.train()
            with torch.no_grad():
                return found.model(batch.x.to(next(found.model.parameters()).dtype))

        return teach

    @contextmanager
    def unguarded(found: Any, task: Any) -> Iterator[None]:
        yield

    runner = importlib.import_module("harness.experiment.runner")
    trainer = importlib.import_module("harness.experiment.trainer")
    monkeypatch.setattr(trainer, "teacher_logits_fn", thawed)
    monkeypatch.setattr(runner, "unchanged", unguarded)


def arguments_of_kl_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    right = divergence.kl_divergence

    def swapped(logits_m: Tensor, logits_n: Tensor, *rest: Any, **named: Any) -> Tensor:
        return right(logits_n, logits_m, *rest, **named)

    everywhere(monkeypatch, "kl_divergence", swapped)


def temperature_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ClassMeans.update

    def forgetful(self: ClassMeans, logits_BC: Tensor, labels_B: Tensor) -> None:
        self.temperature = 1.0
        right(self, logits_BC, labels_B)

    monkeypatch.setattr(ClassMeans, "update", forgetful)


def weight_perturbation_not_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def kept(model: nn.Module, offsets: list[Tensor]) -> Iterator[None]:
        with torch.no_grad():
            for parameter, offset in zip(perturbed_parameters(model), offsets, strict=False):
                parameter.add_(offset)
        yield

    monkeypatch.setattr(loop, "perturbed", kept)


def augmentation_off(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Augmentation.viewed

    def unchanged(self: Augmentation, images: Tensor, generator: torch.Generator) -> Any:
        return images, right(self, images, generator)[1]

    monkeypatch.setattr(Augmentation, "viewed", unchanged)


def labels_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    right = DeviceLoader.epoch

    def shifted(self: DeviceLoader, seed: int, epoch: int) -> Iterator[Batch]:
        for batch in right(self, seed, epoch):
            yield replace(batch, y=(batch.y + 1) % 10)

    monkeypatch.setattr(DeviceLoader, "epoch", shifted)


FAULTS: dict[str, Fault] = {
    "wrong sign in wMSE": wrong_sign_in_wmse,
    "class means not updated": class_means_not_updated,
    "attack in train mode": attack_in_train_mode,
    "epsilon not ramped": epsilon_not_ramped,
    "teacher not frozen": teacher_not_frozen,
    "arguments of KL swapped": arguments_of_kl_swapped,
    "temperature forgotten": temperature_forgotten,
    "weight perturbation not restored": weight_perturbation_not_restored,
    "augmentation off": augmentation_off,
    "labels shifted": labels_shifted,
}
