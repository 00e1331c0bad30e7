"""A small robust network with BatchNorm on real digits, trained once a session, and test images."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from harness.config import EvalConfig
from harness.data import ImageSet, load_dataset
from harness.evaluation.driver import EvaluationResult, evaluate, no_notice
from harness.models import build_model
from harness.models.checkpoint import save_model
from harness.store.rundir import EvaluationDirectory, RunDirectory


def train_robust(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, eps: float
) -> None:
    """Plain PGD adversarial training, three steps an attack.

    In float64, so that every machine makes the same network: in float32 a processor's rounding
    chose the images that a stage breaks.
    """
    model.double()
    x = x.double()
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
    model.float().eval()


def evaluated(
    model: nn.Module,
    images: ImageSet,
    run: RunDirectory,
    config: EvalConfig,
    *,
    foreign: bool = False,
    notify: Callable[[str], None] = no_notice,
    **changes: object,
) -> EvaluationResult:
    """Evaluate at one radius on the CPU, with some settings changed."""
    config = config.model_copy(update=changes)
    cpu = torch.device("cpu")
    (result,) = evaluate(model, images, config, run, device=cpu, foreign=foreign, notify=notify)
    return result


def watched(
    model: nn.Module, images: ImageSet, run: RunDirectory, config: EvalConfig
) -> list[tuple[float, str]]:
    """The progress of an evaluation on the CPU: shares, which never fall up to 1, and notes."""
    seen: list[tuple[float, str]] = []
    cpu = torch.device("cpu")
    evaluate(model, images, config, run, device=cpu, progress=lambda *news: seen.append(news))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return seen


def save_resnet8(path: Path, channels: int, size: int, dataset: str) -> None:
    """Write an untrained network as a finished run does."""
    torch.manual_seed(0)
    save_model(
        path, build_model("resnet8", 10, channels, size), arch="resnet8", num_classes=10,
        in_channels=channels, image_size=size, normalize=None, dataset=dataset, method="some",
        epoch=1,
    )  # fmt: skip


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


class PairNetwork(nn.Module):
    """Reads two digits side by side: the logit of class 10 a + b is the sum of a's and b's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.left, self.right = copy.deepcopy(network), copy.deepcopy(network)
        self.rows = nn.AvgPool2d((2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rows(x)
        pairs = self.left(x[..., :8])[:, :, None] + self.right(x[..., 8:])[:, None, :]
        return pairs.flatten(1)


@pytest.fixture(scope="session")
def pair_network(network: nn.Module) -> nn.Module:
    """A robust network of 100 classes with BatchNorm."""
    return PairNetwork(network).eval()


@pytest.fixture(scope="session")
def digit_pairs(digits: ImageSet) -> ImageSet:
    """Each test digit beside the one that is half the set further on, rows doubled."""
    other = torch.arange(len(digits)).roll(len(digits) // 2)
    images = torch.cat([digits.images, digits.images[other]], dim=3).repeat_interleave(2, dim=2)
    labels = 10 * digits.labels + digits.labels[other]
    names = tuple(f"{number:02}" for number in range(100))
    info = replace(
        digits.info, name="digit-pairs", num_classes=100, image_size=16, class_names=names
    )
    return ImageSet(images, labels, info, "test", complete=False)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], RunDirectory]:
    """Makes run directories in a results folder of the test's own."""

    def make(name: str) -> RunDirectory:
        run = RunDirectory.create(tmp_path, name)
        run.update(kind="loaded", dataset="digits")
        return run

    return make


@pytest.fixture
def interrupt() -> Callable[..., None]:
    """Makes a finished evaluation one that was stopped before those of its chunks were there."""

    def make(evaluation: EvaluationDirectory, *missing: int) -> None:
        evaluation.update(status="cancelled")
        evaluation.verdicts_path.unlink()
        for number in missing:
            evaluation.chunk_path(number).unlink()

    return make
