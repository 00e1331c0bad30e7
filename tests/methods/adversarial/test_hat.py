"""hat against its formula."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.method import Batch, Task
from tests.methods.conftest import Recorder, assert_same_loss

WEIGHTS = {"kl_weight": 3.0, "helper_weight": 0.7, "helper_scale": 2.5}


@pytest.fixture
def helper() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 7)).double()


@pytest.fixture
def task(make_task: Callable[..., Task], helper: nn.Module) -> Task:
    made = make_task("hat", **WEIGHTS)
    made.context = replace(made.context, teacher=helper)
    return made


def test_loss_is_its_formula(
    network: nn.Module, batch: Batch, task: Task, helper: nn.Module
) -> None:
    x, adv = batch.x, batch.adversarial
    labels = helper(adv).max(1).indices
    assert (labels != batch.y).any()
    clean = network(x).softmax(1)
    kl = (clean * (clean.log() - network(adv).log_softmax(1))).sum(1).mean()
    expected = cross_entropy(network(x), batch.y) + 3 * kl
    expected = expected + 0.7 * cross_entropy(network(x + 2.5 * (adv - x)), labels)
    output = task.loss(network, batch)
    assert_same_loss(output.loss, expected, network)
    assert set(output.parts) == {"ce", "kl", "helper_ce"}


def test_passes_are_clean_adversarial_helper_as_released(
    network: nn.Module, batch: Batch, task: Task
) -> None:
    recorder = Recorder(network)
    task.loss(recorder, batch)
    clean, adversarial, helper = recorder.seen
    torch.testing.assert_close(clean, batch.x)
    torch.testing.assert_close(adversarial, batch.adversarial)
    assert helper.min() < 0  # not clipped
    assert helper.max() > 1


def test_the_helper_gets_no_gradient(
    network: nn.Module, batch: Batch, task: Task, helper: nn.Module
) -> None:
    task.loss(network, batch).loss.backward()
    assert all(parameter.grad is None for parameter in helper.parameters())


def test_it_needs_a_teacher(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    with pytest.raises(UserError, match=r"teacher\.arch"):
        make_task("hat").loss(network, batch)


def test_the_helper_is_trained_without_an_attack_on_the_same_schedule() -> None:
    config = resolve("hat", recipe="cifar100")
    assert config.teacher is not None
    assert config.training.optimizer.schedule == "onecycle"
    helper = resolve("vanilla", recipe="cifar100", settings=config.teacher.config)
    assert helper.training.attack is None
    assert helper.training.optimizer == config.training.optimizer
    assert helper.training.epochs == config.training.epochs == 50
    assert helper.model == config.model
