"""Contrastive distillation: its memory, its loss for one image, and how negatives are drawn.

``distillation/test_feature_methods.py`` tests whole steps with a loop over images and negatives.
"""

import math

import pytest
import torch
from torch import Tensor

from harness.errors import UserError
from methods.losses.contrastive import (
    ContrastiveDistillation,
    ContrastMemory,
    OtherClasses,
    contrast_loss,
)

B, N, K, E = 4, 30, 7, 5


def unit(*shape: int) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64)
    return x / x.square().sum(-1, keepdim=True).sqrt()


def test_memory_starts_with_a_mean_square_length_of_one() -> None:
    memory = ContrastMemory(2000, 128)
    for bank in (memory.student_NE, memory.teacher_NE):
        assert float(bank.abs().max()) <= 1 / math.sqrt(128 / 3)
        assert float(bank.square().sum(1).mean()) == pytest.approx(1, rel=0.01)
    assert memory.student_NE.numel() == 2000 * 128


def test_step_in_float32_is_close_to_float64() -> None:
    exact, narrow = ContrastMemory(N, E).double(), ContrastMemory(N, E)
    narrow.load_state_dict(exact.state_dict())
    exact.load_state_dict(narrow.state_dict())
    student, teacher = unit(B, E).float(), unit(B, E).float()
    index, negatives = torch.arange(B), torch.randint(N, (B, K))
    expected = exact(student.double(), teacher.double(), index, negatives)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = narrow(student, teacher, index, negatives)
    torch.testing.assert_close(found.loss.double(), expected.loss, rtol=1e-5, atol=1e-5)


def test_contrast_loss_of_one_image() -> None:
    positive, negatives = torch.tensor([0.5]), torch.tensor([[0.1, 0.3]])
    noise = 2 / 10
    expected = math.log(0.5 / (0.5 + noise)) + sum(
        math.log(noise / (h + noise)) for h in (0.1, 0.3)
    )
    assert float(contrast_loss(positive, negatives, 10)) == pytest.approx(-expected, rel=1e-5)


# Classes of different sizes, one of them missing, in mixed order.
LABELS = torch.tensor([0] * 3 + [1] * 9 + [3] * 6 + [4] * 2)[
    torch.randperm(20, generator=torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize("replacement", [False, True])
def test_negatives_are_of_other_classes(replacement: bool) -> None:
    sampler = OtherClasses(LABELS, 11, replacement=replacement)
    labels = torch.tensor([0, 1, 3, 4] * 50)
    drawn = sampler(labels)
    assert drawn.shape == (200, 11)
    assert not bool((LABELS[drawn] == labels[:, None]).any())
    distinct = [len(set(row)) == 11 for row in drawn.tolist()]
    assert any(distinct) if replacement else all(distinct)
    assert all(distinct) != replacement


@pytest.mark.parametrize("replacement", [False, True])
def test_negatives_are_drawn_evenly_and_again_for_each_image(replacement: bool) -> None:
    number, times = 6, 4000
    sampler = OtherClasses(LABELS, number, replacement=replacement)
    for label in (0, 1, 4):
        # One image per call: images of a batch share an order.
        drawn = torch.cat([sampler(torch.tensor([label])) for _ in range(times)])
        counts = drawn.flatten().bincount(minlength=len(LABELS))[label != LABELS]
        expected = times * number / len(counts)
        assert float((counts - expected).abs().max()) < 5 * math.sqrt(expected)
    rows = sampler(torch.zeros(64, dtype=torch.int64))
    assert len({tuple(sorted(row)) for row in rows.tolist()}) > 10


@pytest.mark.parametrize("label", [0, 1])
def test_pairs_of_negatives_are_drawn_evenly(label: int) -> None:
    """Without replacement, all pairs of images of other classes are equally likely."""
    sampler = OtherClasses(LABELS, 2)
    drawn = torch.cat([sampler(torch.full((20,), label)) for _ in range(2000)]).sort(1).values
    counts = (drawn[:, 0] * len(LABELS) + drawn[:, 1]).bincount()
    others = int((label != LABELS).sum())
    counts = counts[counts > 0]
    assert len(counts) == others * (others - 1) // 2
    expected = len(drawn) / len(counts)
    # The images of a call are not independent, hence the wide bound.
    assert float((counts - expected).abs().max()) < 8 * math.sqrt(expected)


def test_all_other_images_can_be_drawn() -> None:
    drawn = OtherClasses(LABELS, 11)(torch.tensor([1]))
    assert sorted(drawn[0].tolist()) == (LABELS != 1).nonzero().flatten().tolist()


def test_too_many_negatives_are_the_users_error() -> None:
    with pytest.raises(UserError, match=r"12 negatives .* only 11 such images: use fewer"):
        OtherClasses(LABELS, 12)
    OtherClasses(LABELS, 12, replacement=True)
    with pytest.raises(UserError, match="only 0 such images"):
        OtherClasses(torch.zeros(5, dtype=torch.int64), 1, replacement=True)


def test_only_the_student_and_both_embeddings_learn() -> None:
    module = ContrastiveDistillation(3, 6, LABELS, negatives=8, features=4)
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    module(student, teacher, torch.arange(5), LABELS[:5]).loss.backward()
    assert teacher.grad is None
    assert all(bool(p.grad.any()) for p in (student, *module.parameters()))
