"""A tiny pair in float64, and tasks of any distillation method on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.method import Batch, Task, TaskContext
from harness.models.features import Features
from harness.models.resnet import ResNet
from harness.registry import METHODS

NUM_CLASSES, SIZE, TRAIN_SIZE, BATCH_SIZE = 7, 8, 40, 6


class Leaves(nn.Module):
    """A student whose features are leaves, so that a loss can be differentiated by them."""

    def __init__(self, network: ResNet, x: Tensor) -> None:
        super().__init__()
        shown = network.features(x)
        self.shown = Features(
            tuple(leaf(stage) for stage in shown.stages),
            tuple(leaf(preact) for preact in shown.preacts),
            leaf(shown.pooled),
            leaf(shown.logits),
        )

    def features(self, x: Tensor) -> Features:
        return self.shown

    def forward(self, x: Tensor) -> Tensor:
        return self.shown.logits

    def leaves(self) -> list[Tensor]:
        return [*self.shown.stages, *self.shown.preacts, self.shown.pooled, self.shown.logits]


def leaf(tensor: Tensor) -> Tensor:
    """Random values of the tensor's shape that take a gradient."""
    return torch.randn_like(tensor).requires_grad_()


@dataclass
class Scene:
    """One step of distillation."""

    student: Leaves
    teacher: ResNet
    batch: Batch
    make_task: Callable[..., Task]

    @property
    def goals(self) -> Features:
        """The teacher's features in eval mode."""
        with torch.no_grad():
            return self.teacher.eval().features(self.batch.x)


def random_teacher() -> ResNet:
    """In eval mode, with BatchNorms that are not the identity."""
    teacher = ResNet(
        NUM_CLASSES, image_size=SIZE, blocks=(1, 1, 1), channels=(6, 8, 12, 20)
    ).double()
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return teacher.eval().requires_grad_(False)


def make_scene() -> Scene:
    """The same each time."""
    torch.manual_seed(1)
    network = ResNet(NUM_CLASSES, image_size=SIZE, blocks=(1, 1, 1), channels=(4, 5, 6, 7)).double()
    teacher = random_teacher()
    labels = torch.arange(TRAIN_SIZE) % NUM_CLASSES
    index = torch.randperm(TRAIN_SIZE)[:BATCH_SIZE]
    x = torch.rand(BATCH_SIZE, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        logits = 5 * teacher(x)
    batch = Batch(x=x, y=labels[index], index=index, epoch=5, teacher_output=logits)

    def make(name: str, **params: Any) -> Task:
        method = METHODS.get(name)
        context = TaskContext(
            num_classes=NUM_CLASSES,
            epochs=40,
            train_size=TRAIN_SIZE,
            device=torch.device("cpu"),
            teacher=teacher,
            image_size=SIZE,
            student=network,
            train_labels=labels,
        )
        torch.manual_seed(3)
        return method.task(method.params(**params), context).double().train()

    return Scene(Leaves(network, x), teacher, batch, make)


def gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


def assert_same(ours: Tensor, expected: Tensor, tensors: list[Tensor]) -> None:
    """Values, and gradients with respect to the tensors, at least one of which is not zero."""
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    found, wanted = gradients(ours, tensors), gradients(expected, tensors)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    assert any(bool(gradient.any()) for gradient in wanted)
