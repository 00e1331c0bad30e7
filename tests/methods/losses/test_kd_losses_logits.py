"""Distillation from logits against the formulas, written plainly in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, one_hot, softmax

from methods.losses.class_means import ClassMeans
from methods.losses.divergence import gkl_loss, ikl_loss
from methods.losses.logits import dkd_loss, kd_loss, sample_weights

TOLERANCE = 1e-10
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


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, student, retain_graph=True)
    return found


def assert_same(ours: Tensor, expected: Tensor, student: Tensor) -> None:
    """Values and gradients."""
    torch.testing.assert_close(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(
        gradient(ours, student), gradient(expected, student), rtol=TOLERANCE, atol=TOLERANCE
    )


def pairwise(t: Tensor, s: Tensor, weights: Tensor) -> Tensor:
    """1/4 sum_jk w_j w_k ((t_j - t_k) - (s_j - s_k))^2 of each sample, all pairs spelled out."""
    delta_t = t.unsqueeze(2) - t.unsqueeze(1)
    delta_s = s.unsqueeze(2) - s.unsqueeze(1)
    products = weights.unsqueeze(2) * weights.unsqueeze(1)
    return ((delta_t - delta_s).square() * products).sum((1, 2)) / 4


def plain_cross_entropy(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    return -(softmax(t / temperature, 1) * log_softmax(s / temperature, 1)).sum(1).mean()


def class_prior(teacher: Tensor, labels: Tensor) -> Tensor:
    """Rows of a prior that an epoch of the teacher's predictions has filled."""
    means = ClassMeans(C, temperature=2.0).double()
    means.update(teacher, labels)
    means.end_epoch()
    return means.of(labels)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_torchs(student: Tensor, teacher: Tensor, temperature: float) -> None:
    soft = softmax(teacher.detach() / temperature, 1)
    expected = kl_div(log_softmax(student / temperature, 1), soft, reduction="batchmean")
    assert_same(kd_loss(student, teacher, temperature), temperature**2 * expected, student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_is_the_printed_sums(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> None:
    ours = dkd_loss(student, teacher, labels, temperature)
    target, rest = torch.zeros(2, dtype=torch.float64)
    for i, y in enumerate(labels.tolist()):
        s, t = (softmax(x[i] / temperature, 0) for x in (student, teacher.detach()))
        for p, q in ((t[y], s[y]), (1 - t[y], 1 - s[y])):
            target = target + p * (p / q).log() / B
        for k in set(range(C)) - {y}:
            p, q = t[k] / (1 - t[y]), s[k] / (1 - s[y])
            rest = rest + p * (p / q).log() / B
    assert_same(ours.target, temperature**2 * target, student)
    assert_same(ours.non_target, temperature**2 * rest, student)
    assert_same(ours.weighted(3, 5), temperature**2 * (3 * target + 5 * rest), student)


def test_dkd_is_the_released_masking(student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    """Where the released code takes 1000 off the target's logit, here it is left out."""
    masked = 1000 * one_hot(labels, C)
    log_s, log_t = (log_softmax(x / 4 - masked, 1) for x in (student, teacher.detach()))
    expected = 16 * kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    assert_same(dkd_loss(student, teacher, labels, 4.0).non_target, expected, student)


def test_dkd_of_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    """KD is TCKD plus NCKD weighted by the teacher's doubt, sample by sample."""
    doubt = 1 - softmax(teacher.detach() / 4, 1).gather(1, labels[:, None]).squeeze(1)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(B):
        one = slice(i, i + 1)
        parts = dkd_loss(student[one], teacher[one], labels[one], 4.0)
        total = total + (parts.target + doubt[i] * parts.non_target) / B
    assert_same(total, kd_loss(student, teacher, 4.0), student)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_dkd_of_two_classes_is_finite_and_has_no_rest(scale: float) -> None:
    torch.manual_seed(0)
    student = (scale * torch.randn(8, 2)).requires_grad_()
    labels = torch.tensor([0, 1] * 4)
    parts = dkd_loss(student, scale * torch.randn(8, 2), labels, 1.0)
    assert parts.non_target.item() == 0
    assert bool(parts.target.isfinite())
    found = gradient(parts.weighted(1, 8), student)
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
    assert bool(gradient(loss, student).isfinite().all())


@pytest.mark.parametrize("global_information", [False, True])
def test_ikl_with_a_temperature_is_the_pairwise_sum(
    student: Tensor, teacher: Tensor, labels: Tensor, global_information: bool
) -> None:
    t = teacher.detach()
    weights = class_prior(t, labels) if global_information else softmax(t / 2, 1)
    if not global_information:
        torch.testing.assert_close(sample_weights(teacher, 2.0), weights)
    ours = ikl_loss(t, student, weights, temperature=4.0)
    assert_same(ours.wmse, pairwise(t, student, weights).mean(), student)
    assert_same(ours.ce, plain_cross_entropy(student, t, 4.0), student)


@pytest.mark.parametrize("global_information", [False, True])
@pytest.mark.parametrize("power", [0.0, 0.2, 1.0])
def test_gkl_with_a_temperature_is_one_ratio_over_the_batch(
    student: Tensor, teacher: Tensor, labels: Tensor, global_information: bool, power: float
) -> None:
    t = teacher.detach()
    weights = class_prior(t, labels) if global_information else sample_weights(t, 4.0)
    q = weights**power
    expected = pairwise(t, student, q).sum() / (q.unsqueeze(2) * q.unsqueeze(1)).sum()
    ours = gkl_loss(t, student, weights, power, temperature=4.0)
    assert_same(ours.wmse, expected, student)
    assert_same(ours.ce, plain_cross_entropy(student, t, 4.0), student)
    if power == 1:
        assert_same(ours.wmse, ikl_loss(t, student, weights).wmse, student)


def all_losses(s: Tensor, t: Tensor, labels: Tensor) -> list[Tensor]:
    weights = sample_weights(t, 2.0)
    return [
        kd_loss(s, t, 4.0),
        *dkd_loss(s, t, labels, 4.0),
        *ikl_loss(t.detach(), s, weights, temperature=4.0),
        *gkl_loss(t.detach(), s, weights, 0.3, temperature=4.0),
    ]


def test_the_teacher_takes_no_gradient(student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    total = torch.stack(all_losses(student, teacher, labels)).sum()
    (found,) = torch.autograd.grad(total, teacher, allow_unused=True)
    assert found is None


def test_a_constant_added_to_all_logits_changes_nothing(
    student: Tensor, teacher: Tensor, labels: Tensor
) -> None:
    plain = all_losses(student, teacher, labels)
    for shifted in (
        all_losses(student + 17, teacher, labels),
        all_losses(student, teacher + 17, labels),
    ):
        torch.testing.assert_close(shifted, plain, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_perfect_student_has_no_loss_but_the_teachers_entropy(
    teacher: Tensor, labels: Tensor
) -> None:
    losses = all_losses(teacher.detach().clone().requires_grad_(), teacher, labels)
    entropy = plain_cross_entropy(teacher.detach(), teacher.detach(), 4.0)
    expected = [0, 0, 0, 0, entropy, 0, entropy]
    for loss, wanted in zip(losses, expected, strict=True):
        assert loss.item() == pytest.approx(float(wanted), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(
    student: Tensor, teacher: Tensor, labels: Tensor, dtype: torch.dtype
) -> None:
    s, t = (x.detach().to(dtype) for x in (student, teacher))
    for ours, exact in zip(
        all_losses(s, t, labels), all_losses(s.double(), t.double(), labels), strict=True
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


def test_nothing_waits_for_the_device() -> None:
    """A tensor without values would raise if one were read."""
    s, t = (torch.empty(B, C, device="meta") for _ in range(2))
    labels = torch.empty(B, dtype=torch.int64, device="meta")
    assert all(loss.shape == () for loss in all_losses(s, t, labels))
