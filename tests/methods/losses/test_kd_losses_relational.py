"""Relational distillation against loops over pairs and triples."""

import math

import pytest
import torch
from torch import Tensor

from methods.losses.relational import rkd_loss

B = 5


@pytest.fixture
def student() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(B, 3, dtype=torch.float64).requires_grad_()


@pytest.fixture
def teacher() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(B, 7, dtype=torch.float64).requires_grad_()


def huber(x: Tensor) -> Tensor:
    return 0.5 * x**2 if abs(float(x)) < 1 else x.abs() - 0.5


def distance(points: Tensor, i: int, j: int) -> Tensor:
    return (points[i] - points[j]).square().sum().sqrt()


def plain_distances(points: Tensor) -> dict[tuple[int, int], Tensor]:
    pairs = [(i, j) for i in range(B) for j in range(B) if i != j]
    mean = sum(distance(points, *pair) for pair in pairs) / len(pairs)
    return {pair: distance(points, *pair) / mean for pair in pairs}


def plain_cosine(points: Tensor, i: int, j: int, k: int) -> Tensor:
    """Of the angle at i between j and k; zero where j or k is i."""
    if i in (j, k):
        return torch.zeros((), dtype=torch.float64)
    arms = (points[j] - points[i]) @ (points[k] - points[i])
    return arms / (distance(points, i, j) * distance(points, i, k))


def assert_same(ours: Tensor, expected: Tensor, student: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    (found,) = torch.autograd.grad(ours, student, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("stretch", [1.0, 30.0])
def test_distances_are_the_loop_over_pairs(
    student: Tensor, teacher: Tensor, stretch: float
) -> None:
    """Stretched, one point lies so far out that Huber's loss is in its linear part."""
    t = teacher.detach().clone()
    t[0] *= stretch
    of_student, of_teacher = plain_distances(student), plain_distances(t)
    differences = [of_student[pair] - of_teacher[pair] for pair in of_student]
    assert (max(abs(float(d)) for d in differences) > 1) == (stretch > 1)
    expected = sum(huber(d) for d in differences) / B**2
    assert_same(rkd_loss(student, t).distance, expected, student)


def test_angles_are_the_loop_over_triples(student: Tensor, teacher: Tensor) -> None:
    t = teacher.detach()
    triples = [(i, j, k) for i in range(B) for j in range(B) for k in range(B)]
    expected = sum(
        huber(plain_cosine(student, *triple) - plain_cosine(t, *triple)) for triple in triples
    )
    assert_same(rkd_loss(student, teacher).angle, expected / B**3, student)


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    return rkd_loss(student, teacher).distance


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    return rkd_loss(student, teacher).angle


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
class TestBoth:
    def test_only_the_student_learns(self, loss, student: Tensor, teacher: Tensor) -> None:
        loss(student, teacher).backward()
        assert bool(student.grad.any())
        assert teacher.grad is None

    def test_turning_moving_and_scaling_change_nothing(
        self, loss, student: Tensor, teacher: Tensor
    ) -> None:
        rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
        moved = 5 * student @ rotation + 2
        torch.testing.assert_close(loss(moved, teacher), loss(student, teacher))
        assert float(loss(moved, student)) == pytest.approx(0, abs=1e-20)

    def test_coinciding_points_stay_finite(self, loss, teacher: Tensor) -> None:
        same = torch.ones(B, 3, requires_grad=True)
        value = loss(same, teacher.detach().float())
        value.backward()
        assert bool(value.isfinite())
        assert bool(same.grad.isfinite().all())

    def test_one_image_has_no_loss(self, loss) -> None:
        alone = torch.randn(1, 3, requires_grad=True)
        value = loss(alone, torch.randn(1, 4))
        value.backward()
        assert float(value) == 0
        assert not bool(alone.grad.any())

    def test_close_points_keep_their_relations_in_float32(self, loss, teacher: Tensor) -> None:
        """Points that differ little next to their size, as pooled features may."""
        points = (1 + 1e-3 * torch.randn(B, 3)).requires_grad_()
        exact = loss(points.detach().double(), teacher.detach())
        value = loss(points, teacher.detach().float())
        assert value.dtype == torch.float32
        assert math.isclose(float(value), float(exact), rel_tol=1e-5)

    def test_nothing_waits_for_the_device(self, loss) -> None:
        assert loss(torch.empty(4, 3, device="meta"), torch.empty(4, 5, device="meta")).shape == ()

    def test_mixed_precision_does_not_reach_the_relations(
        self, loss, student: Tensor, teacher: Tensor
    ) -> None:
        s, t = student.detach().float(), teacher.detach().float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = loss(s, t)
        torch.testing.assert_close(mixed, loss(s, t), rtol=0, atol=0)
