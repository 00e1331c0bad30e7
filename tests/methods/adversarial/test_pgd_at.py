"""pgd-at, at-awp and methods that extend them: the loss, and whole steps as released."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from harness.config import RunConfig
from harness.data import load_dataset
from harness.data.loader import make_loader
from harness.method import Batch, Task, TaskContext
from harness.models import build_model
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.loop import Trainer
from harness.training.schedules import InnerSchedule


@pytest.mark.parametrize("method", ["pgd-at", "at-awp"])
def test_loss_and_attack_are_the_label_cross_entropy(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    task = make_task(method)
    expected = -log_softmax(network(batch.adversarial), 1)[range(len(batch.y)), batch.y].mean()
    torch.testing.assert_close(task.loss(network, batch).loss, expected)
    objective = task.attack_objective(network, batch)
    assert objective is not None
    torch.testing.assert_close(objective(network(batch.adversarial)), expected)


def test_selection_on_test_images_is_only_in_the_recipe_named_so() -> None:
    for name, recipe in METHODS.get("pgd-at").recipes.items():
        rule = recipe()["training"].get("selection", {}).get("rule", "last")
        assert (rule == "best-on-test") == name.endswith(("best-on-test", "table4/pgd-at"))


# Exact in any precision, since plans are kept in float32 until training begins.
EPS, SIZE, STEPS = 0.125, 0.0625, 3
PLANNED = {
    "strategy_arch": "resnet8",
    "strategy_interval": 1000,
    "eps_choices": (EPS,),
    "step_size_choices": (SIZE,),
    "steps_choices": (STEPS,),
}
CPU = torch.device("cpu")


def trainer_of(method: str, mode: str, gamma: float, folder: Path) -> Trainer:
    training: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 16,
        "precision": "float64",
        "attack": {"eps": EPS, "start": "clean", "model_mode": mode},
        "weight_perturbation": {"gamma": gamma, "start_epoch": 1},
    }
    config = RunConfig.model_validate({"method": method, "training": training})
    data, model = load_dataset("digits"), build_model("resnet8", 10, 1, 8).double()
    registered = METHODS.get(method)
    context = TaskContext(10, 1, CPU, in_channels=1, image_size=8, student=model)
    params = registered.params(**(PLANNED if method == "las-awp" else {}))
    return Trainer(
        config,
        registered.task(params, context),
        model,
        make_loader(data.train.take(torch.arange(48), complete=False), 16, CPU),
        watched=data.test,
        run=RunDirectory.create(folder, method),
        device=CPU,
    )


def released_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, mode: str, gamma: float
) -> None:
    """The released step without its logging: attack, perturb, descend, restore."""
    x, y = batch.x, batch.y
    model.train(mode == "train")
    x_adv = x.clone()
    for _ in range(STEPS):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(x_adv), y), x_adv)
        x_adv = (x_adv + SIZE * gradient.sign()).detach()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    offsets: dict[str, Tensor] = {}
    if gamma:
        proxy = deepcopy(model)
        cross_entropy(proxy(x_adv), y).backward()
        for name, weight in proxy.named_parameters():
            if weight.ndim > 1:
                offsets[name] = gamma * weight.norm() * weight.grad / weight.grad.norm()
    with torch.no_grad():
        for name, offset in offsets.items():
            model.get_parameter(name).add_(offset)
    optimizer.zero_grad()
    cross_entropy(model(x_adv), y).backward()
    optimizer.step()
    with torch.no_grad():
        for name, offset in offsets.items():
            model.get_parameter(name).sub_(offset)


@pytest.mark.parametrize(
    ("method", "mode", "gamma", "logs"),
    [
        ("pgd-at", "train", 0.0, "last"),
        ("at-awp", "train", 0.02, "last"),
        ("las-awp", "eval", 0.02, "last"),
        ("proxy", "train", 0.0, "first"),
    ],
)
def test_steps_move_weights_and_running_statistics_as_released(
    tmp_path: Path, method: str, mode: str, gamma: float, logs: str
) -> None:
    """The pass that logs clean accuracy runs in training mode with unperturbed weights."""
    trainer = trainer_of(method, mode, gamma, tmp_path)
    reference = deepcopy(trainer.model).train()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule, generator = InnerSchedule(EPS, SIZE, STEPS), torch.Generator().manual_seed(0)
    for batch in trainer.loader.epoch(0, 1):
        trainer.step(batch, schedule, generator)
        if logs == "first":
            reference(batch.x)
        released_step(reference, optimizer, batch, mode, gamma)
        if logs == "last":
            reference(batch.x)
    expected = reference.state_dict()
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("method", ["las-at", "las-trades", "mart", "trades", "trades-awp"])
def test_no_other_release_ends_its_steps_so(make_task: Callable[..., Task], method: str) -> None:
    assert not make_task(method).clean_pass_last
