"""NST against loops over pairs of channels."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.distillation.nst import selectivity_loss
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def channels(image: Tensor) -> list[Tensor]:
    """The channels, scaled to length one; a channel that is not active is zero."""
    active = [channel.flatten() for channel in image]
    return [each / each.norm() if bool(each.any()) else each for each in active]


def kernel(one: list[Tensor], other: list[Tensor]) -> Tensor:
    return sum((a @ b) ** 2 for a in one for b in other) / (len(one) * len(other))


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for image_s, image_t in zip(student, teacher, strict=True):
        s, t = channels(image_s), channels(image_t)
        total = total + kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    return total / len(student)


def test_loss_is_the_plain_one(step: Step) -> None:
    student, teacher = step.student.outputs, step.teacher_features
    pairs = zip(student.stages[1:], teacher.stages[1:], strict=True)
    total = sum(discrepancy(s, t) for s, t in pairs)
    expected = 0.5 * cross_entropy(student.logits, step.batch.y) + 7.0 * total
    task = step.make_task("nst", label_weight=0.5, selectivity_weight=7.0)
    assert_same_loss(step.loss(task), expected, *step.student.leaves())


def test_released_weight(step: Step) -> None:
    assert step.make_task("nst").params.selectivity_weight == 50


@pytest.mark.parametrize("sides", [(8, 4), (4, 8)])
def test_the_larger_map_is_pooled(sides: tuple[int, int]) -> None:
    torch.manual_seed(1)
    s, t = (torch.randn(2, 3, side, side, dtype=torch.float64) for side in sides)
    small = [
        x if x.shape[-1] == 4 else x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) for x in (s, t)
    ]
    found = selectivity_loss([s, s.requires_grad_()], [t, t])
    torch.testing.assert_close(found, discrepancy(*small))
