"""Attention transfer against the printed sum, and which stages are compared."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from methods.losses.attention import attention_loss
from methods.losses.stages import matched_stages
from tests.methods.conftest import assert_same_loss
from tests.methods.losses.transcriptions import attention_map


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ("abcd", "wxyz", ["bx", "cy", "dz"]),
        ("abc", "wxyz", ["by", "cz"]),
        ("abcd", "yz", ["dz"]),
    ],
)
def test_stages_are_matched_from_the_last_without_stems(
    student: str, teacher: str, pairs: list[str]
) -> None:
    assert ["".join(pair) for pair in matched_stages(student, teacher)] == pairs


def draw(channels: int, side: int) -> Tensor:
    return torch.randn(2, channels, side, side, dtype=torch.float64, requires_grad=True)


def test_attention_loss_is_the_printed_sum() -> None:
    """Maps have equal sizes, or the student's or the teacher's is larger; stems are left out."""
    student = [draw(3, 9), draw(4, 8), draw(5, 8), draw(6, 2)]
    teacher = [draw(7, 5), draw(8, 8), draw(9, 4), draw(9, 4)]
    goals = [t.detach() for t in teacher]
    compared = [
        (student[1], goals[1]),
        (avg_pool2d(student[2], 2), goals[2]),
        (student[3], avg_pool2d(goals[3], 2)),
    ]
    expected = sum((attention_map(s) - attention_map(t)).square().mean() for s, t in compared)
    assert_same_loss(attention_loss(student, teacher), expected, *student, *teacher)
