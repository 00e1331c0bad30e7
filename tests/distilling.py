"""Tiny runs, and a small distillation method, for tests of the engine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory

TEACHER = {"training": {"epochs": 2, "batch_size": 64}, "data": {"train_limit": 200}}
TINY = {
    "training.epochs": 2,
    "training.batch_size": 32,
    "data.train_limit": 96,
    "evaluation.limit": 20,
    "evaluation.attacks": (),
    "training.monitor.every": 0,
    "device": "cpu",
}


class DistilTask(Task):
    """Cross-entropy plus the mean squared error of the logits."""

    needs_teacher_logits = True

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        logits = model(batch.x)
        mse = (logits - batch.teacher_logits).square().mean()
        return StepOutput(cross_entropy(logits, batch.y) + mse, {"mse": mse.detach()})


class MeddlingTask(DistilTask):
    """Changes the teacher's running statistics without declaring it."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        teacher = self.context.teacher
        assert teacher is not None
        with torch.no_grad():
            teacher.train()(batch.x)
        teacher.eval()
        return super().loss(model, batch)


class MovingTask(MeddlingTask):
    """Changes them and declares it, so teacher logits are computed for each batch."""

    teacher_state_moves = True


class OwningTask(DistilTask):
    """Registers the teacher as a submodule, which the contract forbids."""

    def __init__(self, params: Any, context: Any) -> None:
        super().__init__(params, context)
        self.teacher = context.teacher


def digits() -> dict[str, Any]:
    return {
        "data": {"name": "digits", "crop_padding": 1, "flip": False},
        "teacher": {"arch": "resnet8", "method": "vanilla", "config": TEACHER},
        "training": {"selection": {"track_test": True}},
    }


def method(task: type[Task]) -> Method:
    card = MethodCard("Distil", "distillation", "-", "-", "-", needs_teacher=True)
    return Method(card, Params, task, {"digits": digits})


DISTIL, MEDDLING = method(DistilTask), method(MeddlingTask)
MOVING, OWNING = method(MovingTask), method(OwningTask)


@contextmanager
def registered() -> Iterator[None]:
    """Register the methods above inside the block."""
    with ExitStack() as stack:
        for name in ("distil", "meddling", "moving", "owning"):
            stack.enter_context(METHODS.temporarily(name, f"{__name__}:{name.upper()}"))
        yield


class Lines(Reporter):
    """Keeps all progress lines.

    With ``stop_at``, interrupts at the first line that starts with it once a line has contained
    ``after``.
    """

    def __init__(self, stop_at: str = "", after: str = "") -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []
        self.stop_at, self.after = stop_at, after

    def line(self, text: str) -> None:
        self.lines.append(text)
        begun = any(self.after in line for line in self.lines)
        if self.stop_at and begun and text.startswith(self.stop_at):
            raise KeyboardInterrupt

    def about(self, part: str) -> list[str]:
        return [line for line in self.lines if part in line]


def trained(
    results: Path, method: str, reporter: Reporter | None = None, **options: Any
) -> RunDirectory:
    """Execute a tiny run on digits and return its directory."""
    config = resolve(method, options={**TINY, "results": results, **options})
    run(config, reporter or Reporter(quiet=True))
    return RunDirectory(results, config.run_id)


def student(
    results: Path, reporter: Reporter | None = None, method: str = "distil", **options: Any
) -> RunDirectory:
    """Execute a tiny distillation run on digits and return its directory."""
    return trained(results, method, reporter, **options)


def weights(run: RunDirectory) -> dict[str, Tensor]:
    """The state dict of a finished run's model."""
    return torch.load(run.model_path, weights_only=True)["state_dict"]


def assert_same_weights(one: RunDirectory, other: RunDirectory) -> None:
    """Assert that both runs ended with the same weights, to the last bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def write_generated(path: Path, seed: int = 0) -> Path:
    """Write an archive of 200 random images with the shape of digits, and return its path."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    np.savez(path, image=images, label=random.integers(0, 10, 200))
    return path
