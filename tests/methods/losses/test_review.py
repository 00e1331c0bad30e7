"""ReviewKD against plain transcriptions of its fusion and of its loss."""

import math

import pytest
import torch
from torch import Tensor

from methods.losses.review import ReviewDistillation, hcl_loss
from tests.methods.conftest import assert_same_loss
from tests.methods.losses.transcriptions import hcl, review


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("sides", [[1], [2], [4], [7], [8], [32, 16, 8, 1], [56, 4, 4, 1]])
def test_hcl_is_the_plain_transcription(sides: list[int]) -> None:
    student = [draw(2, 3, side, side) for side in sides]
    teacher = [draw(2, 3, side, side) for side in sides]
    assert_same_loss(hcl_loss(student, teacher), hcl(student, teacher), *student, *teacher)


def test_review_is_the_plain_chain() -> None:
    """The teacher's maps are larger or smaller than the student's, and stems are left out."""
    channels, sides = [9, 3, 4, 5], [16, 8, 4, 4]
    teacher_channels, teacher_sides = [9, 6, 7, 8], [16, 16, 2, 8]
    module = ReviewDistillation(channels, 5, teacher_channels, 8).double()
    student = [draw(4, k, side, side) for k, side in zip(channels, sides, strict=True)]
    teacher = [
        draw(4, k, side, side) for k, side in zip(teacher_channels, teacher_sides, strict=True)
    ]
    pooled, teacher_pooled = draw(4, 5), draw(4, 8)
    expected = review(
        module.fusions,
        [*student[1:], pooled[:, :, None, None]],
        [*teacher[1:], teacher_pooled[:, :, None, None]],
    )
    found = module(student, pooled, teacher, teacher_pooled)
    assert_same_loss(found, expected, *student, pooled, *teacher, teacher_pooled, module)


def test_fusion_channels_and_initialisation() -> None:
    module = ReviewDistillation([8, 64, 96], 80, [8, 32, 48], 56, max_middle=64)
    assert [fusion.attend is None for fusion in module.fusions] == [False, False, True]
    for fusion in module.fusions:
        for convolution in (fusion.reduce[0], fusion.expand[0]):
            assert convolution.bias is None
            fan_in = convolution.weight[0].numel()
            # Uniform within sqrt(6 / ((1 + a^2) fan_in)) with a = 1.
            bound = math.sqrt(3 / fan_in)
            assert float(convolution.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
        assert fusion.reduce[0].out_channels == 64
    narrow = ReviewDistillation([8, 64, 96], 48, [8, 32, 48], 56)
    assert {fusion.reduce[0].out_channels for fusion in narrow.fusions} == {48}
