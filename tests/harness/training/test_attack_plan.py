"""Attacks that a task plans, their limits in the engine, and steps that look ahead."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.config import InnerAttackConfig, RunConfig, TrainConfig
from harness.data import load_dataset
from harness.data.loader import make_loader
from harness.method import (
    AttackPlan,
    Batch,
    Forward,
    LookaheadStep,
    Objective,
    Params,
    StepOutput,
    Task,
    TaskContext,
)
from harness.models import build_model
from harness.store.rundir import RunDirectory
from harness.training.inner_attack import pgd, planned_pgd
from harness.training.loop import Trainer
from harness.training.modes import ReplicaForward
from harness.training.optimizer import look_ahead
from harness.training.schedules import InnerSchedule

CPU = torch.device("cpu")


def small_net() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(384, 5)).double()


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (count,), generator=generator)


def test_each_image_walks_as_if_it_were_alone():
    model, (x, y) = small_net().eval(), images()
    eps, size = torch.linspace(0.02, 0.2, 6).double(), torch.linspace(0.05, 0.01, 6).double()
    steps = torch.tensor([1, 5, 3, 0, 2, 4])
    plan = AttackPlan(eps, size, steps, start_eps=0.0)
    config = InnerAttackConfig(start="clean")
    together = planned_pgd(
        model, lambda logits: cross_entropy(logits, y, reduction="sum"), x, plan, config
    )
    for i in range(6):
        schedule = InnerSchedule(float(eps[i]), float(size[i]), int(steps[i]))
        alone = pgd(
            model,
            lambda logits, i=i: cross_entropy(logits, y[i : i + 1]),
            x[i : i + 1],
            schedule,
            config,
        )
        torch.testing.assert_close(together[i : i + 1], alone)
    assert torch.equal(together[3], x[3])


def test_the_start_is_drawn_in_its_own_radius_and_held_to_the_image_s():
    model, (x, y) = small_net().eval(), images()
    x = x.clamp(0.3, 0.7)
    plan = AttackPlan(
        torch.full((6,), 0.05), torch.zeros(6), torch.ones(6, dtype=torch.int64), start_eps=0.1
    )
    config = InnerAttackConfig(start="uniform")
    generator = torch.Generator().manual_seed(3)
    found = planned_pgd(model, lambda logits: cross_entropy(logits, y), x, plan, config, generator)
    noise = torch.empty_like(x).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, x + noise.clamp(-0.05, 0.05), rtol=0, atol=1e-7)


class Greedy(Task):
    """Plans a ball of radius 1, and stores its training images and a separate parameter."""

    def __init__(self, params: Params, context: TaskContext) -> None:
        super().__init__(params, context)
        self.shared, self.own = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.found: list[Tensor] = []
        self.rate_factors: list[float] = []

    def optimised_parameters(self) -> list[nn.Parameter]:
        return [self.shared]

    def before_attack(self, batch: Batch, view: LookaheadStep) -> None:
        tried = Batch(batch.x, batch.y, batch.index, batch.epoch)
        tried.plan = self.attack_plan(batch, view.generator)
        self.found.append(view.attack(tried))
        self.rate_factors.append(view.rate_factor)

    def attack_plan(self, batch: Batch, generator: torch.Generator) -> AttackPlan:
        ones = torch.ones(len(batch.y))
        return AttackPlan(3 * ones, 0.6 * ones, 2 * ones.long(), start_eps=2.0)

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        return lambda logits: cross_entropy(logits, batch.y)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        self.seen.append((batch.x, batch.adversarial))
        loss = cross_entropy(model(batch.adversarial), batch.y)
        return StepOutput(loss * self.shared * self.own)


class Silent:
    """Reports nothing."""

    def step(self, epoch: int, step: int, steps: int) -> None: ...

    def line(self, text: str) -> None: ...

    def epoch(self, record: dict[str, object]) -> None: ...


def trained(folder: Path, task_class: type[Task], eps: float = 0.1, epochs: int = 1) -> Any:
    """Return the task after epochs of three steps on digits."""
    training = {"epochs": epochs, "batch_size": 32, "attack": {"eps": eps}}
    config = RunConfig.model_validate({"method": "greedy", "training": training})
    data = load_dataset("digits")
    context = TaskContext(10, 1, CPU, in_channels=1, image_size=8)
    task = task_class(Params(), context)
    split = data.train.take(torch.arange(96), complete=False)
    Trainer(
        config,
        task,
        build_model("resnet8", 10, 1, 8),
        make_loader(split, 32, CPU),
        watched=data.test.take(torch.arange(8), complete=False),
        run=RunDirectory.create(folder, "greedy"),
        device=CPU,
    ).fit(Silent())
    return task


@pytest.mark.parametrize("eps", [0.15, 0.05])
def test_a_greedy_plan_is_held_to_the_radius_and_the_image_range(tmp_path, eps):
    task = trained(tmp_path, Greedy, eps)
    assert len(task.seen) == len(task.found) == 3
    for (x, x_adv), found in zip(task.seen, task.found, strict=True):
        assert float((found - x).abs().max()) > 0.5, "the fault must have been planted"
        assert float((x_adv - x).abs().max()) <= eps + 1e-7
        assert float((x_adv - x).abs().max()) > 0.9 * eps
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    assert float(task.own.detach()) == 1.0
    assert float(task.shared.detach()) != 1.0


def test_a_task_sees_the_share_of_the_learning_rate_that_its_epoch_has(tmp_path):
    task = trained(tmp_path, Greedy, epochs=4)
    cosine = [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4) for _ in range(3)]
    assert task.rate_factors == pytest.approx(cosine)


@pytest.mark.parametrize("gamma", [0.0, 0.02])
def test_looking_ahead_is_one_step_of_a_copy(gamma):
    model, (x, y) = small_net().eval(), images()
    before = deepcopy(model.state_dict())
    # The cosine schedule halves the rate by epoch 3 of 4.
    training = TrainConfig.model_validate(
        {
            "epochs": 4,
            "optimizer": {"lr": 0.2, "weight_decay": 0.01},
            "weight_perturbation": {"gamma": gamma, "start_epoch": 3},
        }
    )

    def loss(forward: Forward) -> Tensor:
        return cross_entropy(forward(x), y, label_smoothing=0.2)

    def raised(forward: Forward) -> Tensor:
        return cross_entropy(forward(x), y)

    after = look_ahead(ReplicaForward(model, 1), training, 3, loss, raised).state_dict()
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert not model.training

    expected = deepcopy(model).train()
    weights = [expected[0].weight, expected[4].weight]
    offsets = [torch.zeros_like(weight) for weight in weights]
    if gamma:
        gradients = torch.autograd.grad(raised(expected), weights)
        expected[1].load_state_dict(model[1].state_dict())
        offsets = [
            gamma * weight.detach().norm() * gradient / gradient.norm()
            for weight, gradient in zip(weights, gradients, strict=True)
        ]
    with torch.no_grad():
        for weight, offset in zip(weights, offsets, strict=True):
            weight += offset
    loss(expected).backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= 0.1 * (parameter.grad + 0.01 * parameter)
        for weight, offset in zip(weights, offsets, strict=True):
            weight -= offset
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(after[f"model.{name}"], tensor)


class Aimless(Greedy):
    """Attacks before the step without naming an objective."""

    def attack_objective(self, model: Forward, batch: Batch) -> None:
        return None


def test_a_task_without_an_objective_has_nothing_to_attack(tmp_path):
    with pytest.raises(RuntimeError, match="nothing to attack"):
        trained(tmp_path, Aimless)
