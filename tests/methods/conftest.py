"""A tiny float64 model, a batch, and tasks of any registered method."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.method import Batch, Task, TaskContext
from harness.registry import METHODS

NUM_CLASSES, BATCH_SIZE = 7, 12


class Recorder(nn.Module):
    """Stores the images of every forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.network(x)


def gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The gradients of the loss, zero for tensors on which it does not depend."""
    return list(torch.autograd.grad(loss, tensors, retain_graph=True, materialize_grads=True))


def assert_same_loss(
    loss: Tensor,
    expected: Tensor,
    *sources: nn.Module | Tensor,
    rtol: float = 1e-10,
    atol: float = 1e-10,
) -> None:
    """Assert equal values, and equal gradients for the tensors and the modules' parameters."""
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=atol)
    tensors: list[Tensor] = []
    for source in sources:
        tensors += [source] if isinstance(source, Tensor) else source.parameters()
    found, right = gradients(loss, tensors), gradients(expected, tensors)
    torch.testing.assert_close(found, right, rtol=rtol, atol=atol)
    assert any(bool(gradient.any()) for gradient in right)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(1)
    hidden = 16
    layers = [nn.Flatten(), nn.Linear(2 * 3 * 3, hidden), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(hidden, NUM_CLASSES)).double()


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(2)
    x = torch.rand(BATCH_SIZE, 2, 3, 3, dtype=torch.float64)
    x_adv = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    y = torch.randint(NUM_CLASSES, (BATCH_SIZE,))
    return Batch(x=x, y=y, index=torch.arange(BATCH_SIZE), epoch=1, x_adv=x_adv)


@pytest.fixture
def colour_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, NUM_CLASSES)).double()


@pytest.fixture
def colour_batch() -> Batch:
    """A batch of three-channel images, which torchvision can augment."""
    torch.manual_seed(2)
    x = torch.rand(BATCH_SIZE, 3, 6, 6, dtype=torch.float64)
    y = torch.randint(NUM_CLASSES, (BATCH_SIZE,))
    return Batch(x=x, y=y, index=torch.arange(BATCH_SIZE), epoch=1)


@pytest.fixture
def make_task() -> Callable[..., Task]:
    """``make_task(name, **params)`` returns a method's task on the tiny problem."""

    def make(name: str, **params: Any) -> Task:
        method = METHODS.get(name)
        context = TaskContext(
            num_classes=NUM_CLASSES,
            epochs=4,
            device=torch.device("cpu"),
        )
        return method.task(method.params(**params), context)

    return make
