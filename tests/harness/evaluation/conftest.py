"""A small robust network with BatchNorm on real digits, trained once a session, and test images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from harness.data import ImageSet, load_dataset
from harness.store.rundir import RunDirectory


def train_robust(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, eps: float
) -> None:
    """Plain PGD adversarial training, three steps an attack."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        clean, labels = x[rows], y[rows]
        adversarial = clean.clone()
        for _ in range(3):
            adversarial.requires_grad_(True)
            (gradient,) = torch.autograd.grad(
                cross_entropy(model(adversarial), labels), adversarial
            )
            stepped = adversarial.detach() + eps / 2 * gradient.sign()
            adversarial = torch.clamp(stepped, clean - eps, clean + eps).clamp(0, 1)
        optimizer.zero_grad()
        cross_entropy(model(adversarial), labels).backward()
        optimizer.step()
    model.eval()


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """The test digits."""
    return load_dataset("digits").test


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """A network of three convolutions, robust enough that no stage breaks everything."""
    torch.manual_seed(0)
    train = load_dataset("digits").train
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    train_robust(model, train.images_float(), train.labels, steps=120, eps=0.1)
    return model


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], RunDirectory]:
    """Makes run directories in a results folder of the test's own."""

    def make(name: str) -> RunDirectory:
        run = RunDirectory.create(tmp_path, name)
        run.update(kind="loaded", dataset="digits")
        return run

    return make
