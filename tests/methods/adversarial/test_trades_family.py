"""trades, trades-awp and kl: one task, several trainings."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from harness.config import OptimizerConfig
from harness.method import Batch, Task
from harness.registry import METHODS
from harness.training.schedules import learning_rate


@pytest.mark.parametrize(("method", "weight"), [("trades", 6.0), ("trades-awp", 6.0), ("kl", 9.0)])
def test_loss_is_its_formula(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str, weight: float
) -> None:
    output = make_task(method).loss(network, batch)
    clean, adv = network(batch.x), network(batch.adversarial)
    divergence = kl_div(log_softmax(adv, 1), softmax(clean, 1), reduction="batchmean")
    expected = cross_entropy(clean, batch.y) + weight * divergence
    torch.testing.assert_close(output.loss, expected)
    parameters = list(network.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(output.loss, parameters), torch.autograd.grad(expected, parameters)
    )
    total = output.parts["ce"] + weight * output.parts["kl"]
    torch.testing.assert_close(total, expected.detach())


def test_released_trades_settings() -> None:
    recipe = METHODS.get("trades").recipes["cifar10"]()["training"]
    optimizer = OptimizerConfig.model_validate(recipe["optimizer"])
    rates = [learning_rate(optimizer, epoch, 76) for epoch in (1, 74, 75, 76)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert (recipe["epochs"], optimizer.weight_decay) == (76, 2e-4)
    attack = recipe["attack"]
    assert (attack["eps"], attack["step_size"], attack["steps"]) == (0.031, 0.007, 10)


def test_released_trades_awp_settings() -> None:
    recipe = METHODS.get("trades-awp").recipes["cifar100"]()["training"]
    optimizer = OptimizerConfig.model_validate(recipe["optimizer"])
    rates = [learning_rate(optimizer, epoch, 200) for epoch in (99, 100, 149, 150)]
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.001])
    assert recipe["weight_perturbation"]["gamma"] == 0.005
    assert recipe["attack"]["eps"] == 8 / 255
