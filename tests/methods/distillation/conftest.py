"""One distillation step with a tiny float64 pair, for any distillation method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.method import Batch, Task, TaskContext
from harness.models.features import Features
from harness.models.resnet import ResNet
from harness.registry import METHODS

NUM_CLASSES, SIZE, TRAIN_SIZE, BATCH_SIZE = 7, 8, 40, 6
TEACHER_CHANNELS = (6, 8, 12, 20)


class LeafStudent(nn.Module):
    """A student whose features are random leaf tensors, so that losses have gradients for them."""

    def __init__(self, network: ResNet, x: Tensor) -> None:
        super().__init__()

        def leaf(tensor: Tensor) -> Tensor:
            return torch.randn_like(tensor).requires_grad_()

        shapes = network.features(x)
        self.outputs = Features(
            tuple(leaf(stage) for stage in shapes.stages),
            tuple(leaf(preact) for preact in shapes.preacts),
            leaf(shapes.pooled),
            leaf(shapes.logits),
        )

    def features(self, x: Tensor) -> Features:
        return self.outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.logits

    def leaves(self) -> list[Tensor]:
        outputs = self.outputs
        return [*outputs.stages, *outputs.preacts, outputs.pooled, outputs.logits]


@dataclass
class Step:
    """A student, a teacher, a batch, and ``make_task(name, **params)``."""

    student: LeafStudent
    teacher: ResNet
    batch: Batch
    make_task: Callable[..., Task]

    @property
    def teacher_features(self) -> Features:
        """The teacher's features in eval mode."""
        with torch.no_grad():
            return self.teacher.eval().features(self.batch.x)

    def loss(self, task: Task) -> Tensor:
        return task.loss(self.student, self.batch).loss


def random_teacher() -> ResNet:
    """A teacher in eval mode whose BatchNorms are not the identity."""
    teacher = ResNet(
        NUM_CLASSES, image_size=SIZE, blocks=(1, 1, 1), channels=TEACHER_CHANNELS
    ).double()
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return teacher.eval().requires_grad_(False)


@pytest.fixture
def step() -> Step:
    """A step that is the same in each test."""
    return make_step((4, 5, 6, 7))


@pytest.fixture
def equal_step() -> Step:
    """A step whose student has the teacher's channels in each stage, as some methods need."""
    return make_step(TEACHER_CHANNELS)


def make_step(channels: tuple[int, ...]) -> Step:
    torch.manual_seed(1)
    blocks = (1,) * (len(channels) - 1)
    network = ResNet(NUM_CLASSES, image_size=SIZE, blocks=blocks, channels=channels).double()
    teacher = random_teacher()
    labels = torch.arange(TRAIN_SIZE) % NUM_CLASSES
    index = torch.randperm(TRAIN_SIZE)[:BATCH_SIZE]
    x = torch.rand(BATCH_SIZE, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        logits = 5 * teacher(x)
    batch = Batch(x=x, y=labels[index], index=index, epoch=5, teacher_output=logits)

    def make_task(name: str, **params: Any) -> Task:
        method = METHODS.get(name)
        context = TaskContext(
            num_classes=NUM_CLASSES,
            epochs=40,
            device=torch.device("cpu"),
            teacher=teacher,
            image_size=SIZE,
            student=network,
            train_labels=labels,
        )
        torch.manual_seed(3)
        return method.task(method.params(**params), context).double().train()

    return Step(LeafStudent(network, x), teacher, batch, make_task)
