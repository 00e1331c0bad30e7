"""Relational distillation against loops over pairs and triples."""

import math

import pytest
import torch
from torch import Tensor

from methods.losses.relational import rkd_loss
from tests.methods.conftest import assert_same_loss
from tests.methods.losses.transcriptions import relational

B = 5


@pytest.fixture
def student() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(B, 3, dtype=torch.float64).requires_grad_()


@pytest.fixture
def teacher() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(B, 7, dtype=torch.float64)


@pytest.mark.parametrize("stretch", [1.0, 30.0])
def test_loss_is_the_loop_over_pairs_and_triples(
    student: Tensor, teacher: Tensor, stretch: float
) -> None:
    """With ``stretch``, one point is so far away that the Huber loss is in its linear part."""
    teacher[0] *= stretch
    for found, expected in zip(
        rkd_loss(student, teacher), relational(student, teacher), strict=True
    ):
        assert_same_loss(found, expected, student)


def test_turning_moving_and_scaling_change_nothing(student: Tensor, teacher: Tensor) -> None:
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    moved = 5 * student @ rotation + 2
    torch.testing.assert_close(rkd_loss(moved, teacher), rkd_loss(student, teacher))
    parts = [float(part.detach()) for part in rkd_loss(moved, student)]
    assert parts == pytest.approx([0, 0], abs=1e-20)


@pytest.mark.parametrize("points", [torch.ones(B, 3), torch.randn(1, 3)])
def test_coinciding_points_and_a_single_point_stay_finite(points: Tensor) -> None:
    points.requires_grad_()
    for loss in rkd_loss(points, torch.randn(len(points), 7)):
        (gradient,) = torch.autograd.grad(loss, points, retain_graph=True)
        assert bool(loss.isfinite())
        assert bool(gradient.isfinite().all())
        if len(points) == 1:
            assert loss == 0
            assert not bool(gradient.any())


def test_close_points_keep_their_relations_in_float32(teacher: Tensor) -> None:
    """Points may differ little relative to their size, as pooled features do."""
    points = 1 + 1e-3 * torch.randn(B, 3)
    exact = rkd_loss(points.double(), teacher)
    for found, right in zip(rkd_loss(points, teacher.float()), exact, strict=True):
        assert math.isclose(float(found), float(right), rel_tol=1e-5)
