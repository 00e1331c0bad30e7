"""PKT against loops over pairs of images."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.distillation.pkt import neighbour_loss
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def probabilities(features: Tensor) -> list[list[Tensor]]:
    """(1 + cosine) / 2 of all pairs, divided by the row's sum."""
    lengths = [(row**2).sum().sqrt() + 1e-7 for row in features]
    number = range(len(features))
    rows = [
        [((features[i] @ features[j]) / (lengths[i] * lengths[j]) + 1) / 2 for j in number]
        for i in number
    ]
    return [[value / sum(row) for value in row] for row in rows]


def test_loss_is_the_plain_one(step: Step) -> None:
    student, teacher = step.student.outputs, step.teacher_features
    s, t = probabilities(student.pooled), probabilities(teacher.pooled)
    number = range(len(s))
    total = sum(
        t[i][j] * ((t[i][j] + 1e-7) / (s[i][j] + 1e-7)).log() for i in number for j in number
    )
    expected = 0.5 * cross_entropy(student.logits, step.batch.y) + 900.0 * total / len(s) ** 2
    task = step.make_task("pkt", label_weight=0.5, neighbour_weight=900.0)
    assert_same_loss(step.loss(task), expected, *step.student.leaves())


def test_released_weight(step: Step) -> None:
    assert step.make_task("pkt").params.neighbour_weight == 30000


def test_an_image_without_active_features_gives_finite_gradients() -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(4, 3).relu(), torch.randn(4, 5)
    student[1] = 0
    student.requires_grad_()
    loss = neighbour_loss(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
