"""SP against loops over pairs of images."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def similarities(maps: Tensor) -> list[list[Tensor]]:
    """Inner products of all pairs of images, each row normalised to length one."""
    rows = [[(one * other).sum() for other in maps] for one in maps]
    lengths = [sum(value**2 for value in row).sqrt() for row in rows]
    return [[value / length for value in row] for row, length in zip(rows, lengths, strict=True)]


def test_loss_is_the_plain_one(step: Step) -> None:
    student, teacher = step.student.outputs, step.teacher_features
    s, t = similarities(student.stages[-1]), similarities(teacher.stages[-1])
    number = range(len(s))
    total = sum((s[i][j] - t[i][j]) ** 2 for i in number for j in number) / len(s) ** 2
    expected = 0.5 * cross_entropy(student.logits, step.batch.y) + 200.0 * total
    task = step.make_task("sp", label_weight=0.5, similarity_weight=200.0)
    assert_same_loss(step.loss(task), expected, *step.student.leaves())


def test_released_weight(step: Step) -> None:
    assert step.make_task("sp").params.similarity_weight == 3000


def test_scaling_all_maps_changes_nothing(step: Step) -> None:
    task = step.make_task("sp", label_weight=0.0)
    before = step.loss(task)
    with torch.no_grad():
        step.student.outputs.stages[-1].mul_(7)
    torch.testing.assert_close(step.loss(task), before)
