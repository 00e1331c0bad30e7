"""OFD against its case distinction and SciPy's truncated normal distribution."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d

from methods.losses.overhaul import (
    OverhaulDistillation,
    OverhaulStage,
    negative_margins,
    partial_l2,
)
from tests.methods.conftest import assert_same_loss
from tests.methods.losses import transcriptions


def make_norm(mean: list[float], std: list[float]) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(mean)).double()
    with torch.no_grad():
        norm.bias.copy_(torch.tensor(mean, dtype=torch.float64))
        norm.weight.copy_(torch.tensor(std, dtype=torch.float64))
    return norm


@pytest.mark.parametrize("mean", [-5.0, -0.3, 0.0, 0.4, 3.0])
@pytest.mark.parametrize("std", [1.0, 1.5, -0.7])
def test_margin_is_the_mean_of_the_negative_part(mean: float, std: float) -> None:
    (found,) = negative_margins(make_norm([mean], [std])).tolist()
    assert found == pytest.approx(transcriptions.margin(mean, abs(std)), rel=1e-9)
    assert (found == -3 * abs(std)) == (mean / abs(std) > 3.09)


def test_margins_of_constant_channels_are_their_limits() -> None:
    margins = negative_margins(make_norm([-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]))
    assert margins.tolist() == [-2.0, 0.0, 0.0]
    assert not margins.requires_grad


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_partial_l2_is_the_case_distinction() -> None:
    student, teacher, margins = draw(2, 3, 4, 5), draw(2, 3, 4, 5), [-0.9, -0.3, 0.0]
    found = partial_l2(student, teacher, torch.tensor(margins, dtype=torch.float64))
    expected = transcriptions.partial_l2(student, teacher, margins)
    assert_same_loss(found, expected, student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (-3.0, -2.0, 0.0),
        (-0.5, -2.0, 0.25),
        (-0.9, -0.4, 0.0),
        (0.6, -0.4, 1.0),
        (-1.0, 2.0, 9.0),
        (3.0, 2.0, 1.0),
        (-5.0, 0.0, 0.0),
    ],
)
def test_partial_l2_of_one_value(student: float, teacher: float, expected: float) -> None:
    maps = (torch.full((1, 1, 1, 1), value) for value in (student, teacher))
    assert float(partial_l2(*maps, torch.tensor([-1.0]))) == pytest.approx(expected)


def test_connector_starts_with_the_published_spread() -> None:
    convolution, norm = OverhaulStage(256, nn.BatchNorm2d(128)).connector
    assert convolution.bias is None
    assert float(convolution.weight.detach().std()) == pytest.approx(math.sqrt(2 / 128), rel=0.02)
    assert isinstance(norm, nn.BatchNorm2d)


def test_each_stage_counts_half_of_the_next_and_the_teachers_map_is_pooled() -> None:
    norms = [make_norm([0.1] * k, [1.0] * k) for k in (2, 3, 4, 5)]
    module = OverhaulDistillation([7, 8, 9, 10], norms).double()
    student = [draw(2, 7, 9, 9), draw(2, 8, 4, 4), draw(2, 9, 4, 4), draw(2, 10, 2, 2)]
    teacher = [draw(2, 2, 9, 9), draw(2, 3, 8, 8), draw(2, 4, 4, 4), draw(2, 5, 2, 2)]
    goals = [avg_pool2d(teacher[1], 2), *teacher[2:]]
    expected = torch.zeros((), dtype=torch.float64)
    for stage, s, t, share in zip(module.stages, student[1:], goals, (0.25, 0.5, 1), strict=True):
        convolution, norm = stage.connector
        mapped = transcriptions.batch_norm(conv2d(s, convolution.weight), norm)
        margins = [transcriptions.margin(0.1, 1.0)] * t.shape[1]
        expected = expected + share * transcriptions.partial_l2(mapped, t, margins)
    assert_same_loss(module(student, teacher), expected, *student, *teacher, module)
    assert all(norm.weight.grad is None for norm in norms)
