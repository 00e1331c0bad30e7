"""DKD against its released masking, its relation to KD, and its limits.

Its printed sums, and those of KD, are tested in ``distillation/test_logit_methods.py``.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, one_hot, softmax

from methods.losses.logits import dkd_loss, kd_loss
from tests.methods.conftest import assert_same_loss, gradients

B, C = 6, 10


@pytest.fixture
def student() -> Tensor:
    torch.manual_seed(1)
    return (3 * torch.randn(B, C, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def teacher() -> Tensor:
    torch.manual_seed(2)
    return (3 * torch.randn(B, C, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    torch.manual_seed(3)
    return torch.randint(C, (B,))


def test_dkd_is_the_released_masking(student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    """The released code subtracts 1000 from the target's logit; ours leaves the target out."""
    masked = 1000 * one_hot(labels, C)
    log_s, log_t = (log_softmax(x / 4 - masked, 1) for x in (student, teacher.detach()))
    expected = 16 * kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    assert_same_loss(dkd_loss(student, teacher, labels, 4.0).non_target, expected, student)


def test_dkd_of_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    """For each sample, KD is TCKD plus NCKD weighted by the teacher's non-target probability."""
    doubt = 1 - softmax(teacher.detach() / 4, 1).gather(1, labels[:, None]).squeeze(1)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(B):
        one = slice(i, i + 1)
        parts = dkd_loss(student[one], teacher[one], labels[one], 4.0)
        total = total + (parts.target + doubt[i] * parts.non_target) / B
    assert_same_loss(total, kd_loss(student, teacher, 4.0), student)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_dkd_of_two_classes_is_finite_and_has_no_rest(scale: float) -> None:
    torch.manual_seed(0)
    student = (scale * torch.randn(8, 2)).requires_grad_()
    labels = torch.tensor([0, 1] * 4)
    parts = dkd_loss(student, scale * torch.randn(8, 2), labels, 1.0)
    assert parts.non_target.item() == 0
    assert bool(parts.target.isfinite())
    (found,) = gradients(parts.weighted(1, 8), [student])
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.sum(1), torch.zeros(8))


@pytest.mark.parametrize("classes", [2, 100])
def test_dkd_of_certain_networks_is_finite(classes: int) -> None:
    student = torch.zeros(2, classes)
    student[:, 0] = 1e4
    student.requires_grad_()
    teacher = -student.detach()
    loss = dkd_loss(student, teacher, torch.tensor([0, 1]), 1.0).weighted(1, 8)
    assert bool(loss.isfinite())
    assert bool(gradients(loss, [student])[0].isfinite().all())
