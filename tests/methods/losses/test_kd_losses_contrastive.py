"""Contrastive distillation against loops over images and negatives."""

import math

import pytest
import torch
from torch import Tensor

from harness.errors import UserError
from methods.losses.contrastive import (
    ContrastiveDistillation,
    ContrastMemory,
    Embedding,
    OtherClasses,
    contrast_loss,
)

B, N, K, E = 4, 30, 7, 5
TEMPERATURE, MOMENTUM = 0.07, 0.5


def unit(*shape: int) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64)
    return x / x.square().sum(-1, keepdim=True).sqrt()


def make_memory() -> ContrastMemory:
    return ContrastMemory(N, E, temperature=TEMPERATURE, momentum=MOMENTUM).double()


class PlainMemory:
    """The released procedure, one image and one negative at a time."""

    def __init__(self, memory: ContrastMemory) -> None:
        self.student = memory.student_NE.clone()
        self.teacher = memory.teacher_NE.clone()
        self.z: list[float] | None = None

    def side(self, embeddings: Tensor, bank: Tensor, index, negatives, z: float | None):
        scores = []
        for embedding, positive, others in zip(embeddings, index, negatives, strict=True):
            rows = [positive, *others]
            scores.append([torch.exp(embedding @ bank[row] / TEMPERATURE) for row in rows])
        if z is None:
            z = N * sum(score.item() for row in scores for score in row) / (B * (K + 1))
        noise = K / N
        loss = 0.0
        for positive, *others in scores:
            h = positive / z
            loss = loss - (h / (h + noise + 1e-7)).log()
            for other in others:
                loss = loss - (noise / (other / z + noise + 1e-7)).log()
        return loss / B, z

    def loss(self, student: Tensor, teacher: Tensor, index, negatives) -> Tensor:
        known = self.z or [None, None]
        of_student, z_s = self.side(student, self.teacher, index, negatives, known[0])
        of_teacher, z_t = self.side(teacher, self.student, index, negatives, known[1])
        self.z = [z_s, z_t]
        return of_student + of_teacher

    def update(self, student: Tensor, teacher: Tensor, index) -> None:
        for bank, embeddings in ((self.student, student), (self.teacher, teacher)):
            for row, embedding in zip(index, embeddings, strict=True):
                mixed = MOMENTUM * bank[row] + (1 - MOMENTUM) * embedding
                bank[row] = mixed / mixed.square().sum().sqrt()


def test_memory_is_the_plain_loop_over_three_steps() -> None:
    memory = make_memory()
    plain = PlainMemory(memory)
    for _ in range(3):
        student, teacher = unit(B, E).requires_grad_(), unit(B, E).requires_grad_()
        index, negatives = torch.randperm(N)[:B], torch.randint(N, (B, K))
        expected = plain.loss(student, teacher, index.tolist(), negatives.tolist())
        before = {name: value.clone() for name, value in memory.state_dict().items()}
        ours = memory(student, teacher, index, negatives)
        for name, value in memory.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        torch.testing.assert_close(ours.loss, expected, rtol=1e-10, atol=1e-10)
        for side in (student, teacher):
            (found,) = torch.autograd.grad(ours.loss, side, retain_graph=True)
            (wanted,) = torch.autograd.grad(expected, side, retain_graph=True)
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
        memory.update(index, ours)
        plain.update(student.detach(), teacher.detach(), index.tolist())
        torch.testing.assert_close(memory.student_NE, plain.student)
        torch.testing.assert_close(memory.teacher_NE, plain.teacher)
        torch.testing.assert_close(memory.normalizers, torch.tensor(plain.z, dtype=torch.float64))


def test_normalizers_are_those_of_the_first_update() -> None:
    memory = make_memory()
    index, negatives = torch.arange(B), torch.randint(N, (B, K))
    first = memory(unit(B, E), unit(B, E), index, negatives)
    assert not bool(memory.normalizers.any())
    memory.update(index, first)
    second = memory(unit(B, E), unit(B, E), index, negatives)
    torch.testing.assert_close(second.normalizers, first.normalizers, rtol=0, atol=0)
    memory.update(index, second)
    torch.testing.assert_close(memory.normalizers, first.normalizers, rtol=0, atol=0)


def test_memory_starts_with_a_mean_square_length_of_one() -> None:
    memory = ContrastMemory(2000, 128)
    for bank in (memory.student_NE, memory.teacher_NE):
        assert float(bank.abs().max()) <= 1 / math.sqrt(128 / 3)
        assert float(bank.square().sum(1).mean()) == pytest.approx(1, rel=0.01)
    assert memory.student_NE.numel() == 2000 * 128


def test_step_in_float32_is_close_to_float64() -> None:
    exact = make_memory()
    narrow = ContrastMemory(N, E)
    narrow.load_state_dict(exact.state_dict())
    exact.load_state_dict(narrow.state_dict())
    student, teacher = unit(B, E).float(), unit(B, E).float()
    index, negatives = torch.arange(B), torch.randint(N, (B, K))
    wanted = exact(student.double(), teacher.double(), index, negatives)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = narrow(student, teacher, index, negatives)
    torch.testing.assert_close(found.loss.double(), wanted.loss, rtol=1e-5, atol=1e-5)


def test_contrast_loss_of_one_image() -> None:
    positive, negatives = torch.tensor([0.5]), torch.tensor([[0.1, 0.3]])
    noise = 2 / 10
    expected = math.log(0.5 / (0.5 + noise)) + sum(
        math.log(noise / (h + noise)) for h in (0.1, 0.3)
    )
    assert float(contrast_loss(positive, negatives, 10)) == pytest.approx(-expected, rel=1e-5)


def test_embeddings_are_normalised_linear_maps() -> None:
    embedding = Embedding(6, 4).double()
    pooled = torch.randn(3, 6, dtype=torch.float64)
    linear = pooled @ embedding.linear.weight.T + embedding.linear.bias
    expected = linear / linear.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(embedding(pooled), expected)


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
def test_negatives_are_drawn_evenly_and_anew(replacement: bool) -> None:
    number, times = 6, 4000
    sampler = OtherClasses(LABELS, number, replacement=replacement)
    for label in (0, 1, 4):
        # One image a call: images of a batch share an order.
        drawn = torch.cat([sampler(torch.tensor([label])) for _ in range(times)])
        counts = drawn.flatten().bincount(minlength=len(LABELS))[label != LABELS]
        expected = times * number / len(counts)
        assert float((counts - expected).abs().max()) < 5 * math.sqrt(expected)
    rows = sampler(torch.zeros(64, dtype=torch.int64))
    assert len({tuple(sorted(row)) for row in rows.tolist()}) > 10


@pytest.mark.parametrize("label", [0, 1])
def test_pairs_of_negatives_are_drawn_evenly(label: int) -> None:
    """Without replacement every set of two other images is as likely as any other."""
    sampler = OtherClasses(LABELS, 2)
    drawn = torch.cat([sampler(torch.full((20,), label)) for _ in range(2000)]).sort(1).values
    counts = (drawn[:, 0] * len(LABELS) + drawn[:, 1]).bincount()
    others = int((label != LABELS).sum())
    counts = counts[counts > 0]
    assert len(counts) == others * (others - 1) // 2
    expected = len(drawn) / len(counts)
    # Images of one call are not independent, hence the wide bound.
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


def make_distillation(**options) -> ContrastiveDistillation:
    return ContrastiveDistillation(3, 6, LABELS, negatives=8, features=4, **options)


def test_distillation_puts_the_parts_together() -> None:
    module = make_distillation(replacement=True)
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    index = torch.arange(5)
    torch.manual_seed(7)
    contrast = module(student, teacher, index, LABELS[:5])
    torch.manual_seed(7)
    negatives = module.negatives(LABELS[:5])
    embedded = module.student(student), module.teacher(teacher.detach())
    expected = module.memory(*embedded, index, negatives)
    torch.testing.assert_close(contrast, expected)
    assert not contrast.student.requires_grad
    contrast.loss.backward()
    assert teacher.grad is None
    assert bool(student.grad.any())
    assert all(bool(p.grad.any()) for p in module.parameters())
    module.update(index, contrast)
    torch.testing.assert_close(module.memory.normalizers, contrast.normalizers)


def test_a_restart_continues_the_memory() -> None:
    first, second = make_distillation(), make_distillation()
    index = torch.arange(5)
    batch = (torch.randn(5, 3), torch.randn(5, 6), index, LABELS[:5])
    first.update(index, first(*batch))
    second.load_state_dict(first.state_dict())
    torch.manual_seed(3)
    expected = first(*batch).loss
    torch.manual_seed(3)
    torch.testing.assert_close(second(*batch).loss, expected, rtol=0, atol=0)


def test_nothing_waits_for_the_device() -> None:
    """A tensor without values would raise if one were read."""
    for replacement in (False, True):
        module = make_distillation(replacement=replacement).to("meta")
        index = torch.empty(5, dtype=torch.int64, device="meta")
        pooled = torch.empty(5, 3, device="meta"), torch.empty(5, 6, device="meta")
        contrast = module(*pooled, index, index)
        module.update(index, contrast)
        assert contrast.loss.shape == ()
