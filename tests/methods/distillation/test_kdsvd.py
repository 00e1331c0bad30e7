"""KDSVD against eigenvectors and loops over channel pairs, and its gradient against torch's."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from methods.distillation.kdsvd import RightVectors
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def decomposed(image: Tensor, number: int) -> tuple[list[Tensor], list[Tensor]]:
    """Leading eigenvectors of the channels' products, and the roots of their eigenvalues.

    Their number is at most the number of positions.
    """
    rows = image.flatten(1)
    number = min(number, rows.shape[1])
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    order = values.argsort(descending=True)[:number].tolist()
    return [vectors[:, i] for i in order], [values[i].sqrt() for i in order]


def relations(here: list[Tensor], before: list[Tensor]) -> Tensor:
    """exp(-difference^2 / 8) for each vector and each pair of channels of the two stages."""
    return torch.stack(
        [
            torch.exp(-((one - other) ** 2) / 8)
            for v, w in zip(here, before, strict=True)
            for one in v
            for other in w
        ]
    )


def plain(step: Step, vectors: int) -> Tensor:
    student, teacher = step.student.outputs.stages, step.teacher_features.stages
    total, images = torch.zeros((), dtype=torch.float64), len(step.batch.y)
    for i in range(images):
        chains: list[tuple[list[Tensor], list[Tensor]]] = []
        for s, t in zip(student[1:], teacher[1:], strict=True):
            right_t, values = decomposed(t[i], vectors)
            right_s, _ = decomposed(s[i], vectors + 3)
            length = torch.stack(values).norm()
            here_s, here_t = [], []
            for v, value in zip(right_t, values, strict=True):
                v = v * v.sum().sign()
                best = max(right_s, key=lambda w: float((w @ v).detach().abs()))
                here_s.append(best * (best @ v).detach().sign() * value / length)
                here_t.append(v * value / length)
            chains.append((here_s, here_t))
        for (before_s, before_t), (here_s, here_t) in pairwise(chains):
            distance = relations(here_s, before_s) - relations(here_t, before_t)
            total = total + (distance**2).sum() / images
    return total


@pytest.mark.parametrize("vectors", [1, 2])
def test_loss_is_the_plain_one(equal_step: Step, vectors: int) -> None:
    step = equal_step
    task = step.make_task("kdsvd", label_weight=0.5, correlation_weight=3.0, vectors=vectors)
    expected = 0.5 * cross_entropy(step.student.outputs.logits, step.batch.y)
    expected = expected + 3.0 * plain(step, vectors)
    assert_same_loss(step.loss(task), expected, *step.student.leaves()[:4], rtol=1e-6, atol=1e-8)


def test_gradient_is_torchs_where_that_exists() -> None:
    for places, channels in ((9, 5), (5, 9), (6, 6)):
        torch.manual_seed(1)
        matrix = torch.randn(3, places, channels, dtype=torch.float64, requires_grad=True)
        weights = torch.randn(3, channels, 2, dtype=torch.float64)
        found = (RightVectors.apply(matrix, 2) * weights).sum()
        right = torch.linalg.svd(matrix, full_matrices=False)[2][:, :2].transpose(1, 2)
        expected = (right * weights).sum()
        assert_same_loss(found, expected, matrix)


def test_gradient_stays_finite_with_channels_that_are_never_active() -> None:
    torch.manual_seed(1)
    matrix = torch.rand(2, 9, 6)
    matrix[:, :, 3:] = 0
    matrix.requires_grad_()
    (gradient,) = torch.autograd.grad(RightVectors.apply(matrix, 4).square().sum(), matrix)
    assert bool(gradient.isfinite().all())
    (theirs,) = torch.autograd.grad(torch.linalg.svd(matrix)[2][:, :4].square().sum(), matrix)
    assert not bool(theirs.isfinite().all())


def test_other_channels_are_refused(step: Step) -> None:
    with pytest.raises(UserError, match="needs the same channels in both models"):
        step.make_task("kdsvd")
