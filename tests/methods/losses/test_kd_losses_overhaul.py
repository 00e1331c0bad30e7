"""OFD against its case distinction and SciPy's truncated normal distribution."""

import math

import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from methods.losses.overhaul import (
    OverhaulDistillation,
    OverhaulStage,
    negative_margins,
    partial_l2,
)


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
    scale = abs(std)
    truncated = truncnorm(-math.inf, -mean / scale, loc=mean, scale=scale)
    rare = 0.5 * math.erfc(mean / scale / math.sqrt(2)) <= 1e-3
    assert found == pytest.approx(-3 * scale if rare else truncated.mean(), rel=1e-9)
    assert rare == (mean / scale > 3.09)


def test_margins_of_constant_channels_are_their_limits() -> None:
    margins = negative_margins(make_norm([-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]))
    assert margins.tolist() == [-2.0, 0.0, 0.0]
    assert not margins.requires_grad


def plain_partial_l2(student: Tensor, teacher: Tensor, margins: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    teacher, margins = teacher.detach(), margins.detach()
    for b, k, h, w in torch.cartesian_prod(*(torch.arange(n) for n in student.shape)).tolist():
        s, t, m = student[b, k, h, w], float(teacher[b, k, h, w]), float(margins[k])
        if t <= m:
            term = (s - m) ** 2 if s > m else 0 * s
        elif t <= 0:
            term = (s - t) ** 2 if s > t else 0 * s
        else:
            term = (s - t) ** 2
        total = total + term
    return total / len(student)


def test_partial_l2_is_the_case_distinction() -> None:
    student = torch.randn(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    margins = torch.tensor([-0.9, -0.3, 0.0], dtype=torch.float64)
    ours, expected = (f(student, teacher, margins) for f in (partial_l2, plain_partial_l2))
    torch.testing.assert_close(ours, expected)
    (found,) = torch.autograd.grad(ours, student, retain_graph=True)
    torch.testing.assert_close(found, *torch.autograd.grad(expected, student))
    ours.backward()
    assert teacher.grad is None


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
    stage = OverhaulStage(256, nn.BatchNorm2d(128))
    convolution, norm = stage.connector
    assert convolution.bias is None
    assert float(convolution.weight.detach().std()) == pytest.approx(math.sqrt(2 / 128), rel=0.02)
    assert isinstance(norm, nn.BatchNorm2d)


def draw(channels: list[int], sides: list[int]) -> list[Tensor]:
    return [
        torch.randn(2, k, side, side, dtype=torch.float64)
        for k, side in zip(channels, sides, strict=True)
    ]


def test_each_stage_counts_half_of_the_next_and_the_teachers_map_is_pooled() -> None:
    norms = [make_norm([0.1] * k, [1.0] * k) for k in (2, 3, 4, 5)]
    module = OverhaulDistillation([7, 8, 9, 10], norms).double()
    student, teacher = draw([7, 8, 9, 10], [9, 4, 4, 2]), draw([2, 3, 4, 5], [9, 8, 4, 2])
    expected = torch.zeros((), dtype=torch.float64)
    for i, share in ((1, 0.25), (2, 0.5), (3, 1.0)):
        connected = module.stages[i - 1].connector(student[i])
        goal = avg_pool2d(teacher[i], 2) if i == 1 else teacher[i]
        margins = negative_margins(norms[i])
        expected = expected + share * plain_partial_l2(connected.detach(), goal, margins)
    found = module(student, teacher)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters())
    assert all(norm.weight.grad is None for norm in norms)


def test_margins_are_not_trained() -> None:
    stage = OverhaulStage(3, nn.BatchNorm2d(4))
    assert dict(stage.named_buffers())["margins_K"].shape == (4,)
    assert all("margins" not in name for name, _ in stage.named_parameters())


def test_low_precision_maps_are_compared_in_float32() -> None:
    student, teacher = (100 * torch.rand(2, 3, 16, 16) for _ in range(2))
    margins = torch.zeros(3)
    narrow = partial_l2(student.half(), teacher.half(), margins)
    assert narrow.dtype == torch.float32
    exact = partial_l2(student.half().double(), teacher.half().double(), margins)
    torch.testing.assert_close(narrow.double(), exact, rtol=1e-5, atol=0)
