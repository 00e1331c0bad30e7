"""Properties of every loss: precision, gradients, and no synchronisation with the device."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from methods.distillation.ab import boundary_loss
from methods.distillation.dist import correlation_loss
from methods.distillation.fsp import flow_loss
from methods.distillation.ft import factor_loss
from methods.distillation.mlkd import batch_loss, class_loss
from methods.distillation.nst import selectivity_loss
from methods.distillation.pkt import neighbour_loss
from methods.distillation.sp import similarity_loss
from methods.distillation.vid import gaussian_nll
from methods.losses.attention import attention_loss
from methods.losses.divergence import (
    dkl_loss,
    gkl_loss,
    ikl_loss,
    kl_divergence,
    soft_cross_entropy,
    weighted_mse,
)
from methods.losses.hints import hint_loss
from methods.losses.logits import dkd_loss, kd_loss, sample_weights
from methods.losses.overhaul import partial_l2
from methods.losses.relational import rkd_loss
from methods.losses.review import hcl_loss

Loss = Callable[[Tensor, Tensor], Sequence[Tensor]]
BATCH, CLASSES = 6, 100


def labels(logits: Tensor) -> Tensor:
    return torch.arange(BATCH, device=logits.device)


# Functions of a student's and a teacher's tensors, in this order.
DISTILLATION_LOGITS: dict[str, Loss] = {
    "kd": lambda s, t: [kd_loss(s, t, 4.0)],
    "dkd": lambda s, t: dkd_loss(s, t, labels(s), 4.0),
    "ikl": lambda s, t: ikl_loss(t.detach(), s, sample_weights(t, 2.0), temperature=4.0),
    "gkl": lambda s, t: gkl_loss(t.detach(), s, sample_weights(t, 2.0), 0.3, temperature=4.0),
    "dist": lambda s, t: correlation_loss(s, t, 4.0),
    "mlkd-batch": lambda s, t: [batch_loss(s, t, 4.0)],
    "mlkd-class": lambda s, t: [class_loss(s, t, 4.0)],
}
LOGITS: dict[str, Loss] = DISTILLATION_LOGITS | {
    "kl": lambda s, t: [kl_divergence(t, s)],
    "soft-cross-entropy": lambda s, t: [soft_cross_entropy(t, s)],
    "wmse": lambda s, t: [weighted_mse(t, s, sample_weights(t, 1.0))],
    "dkl": lambda s, t: dkl_loss(t, s),
    "dkl-broken-asymmetry": lambda s, t: dkl_loss(t, s, break_asymmetry=True),
}
MAPS: dict[str, Loss] = {
    "hint": lambda s, t: [hint_loss(s, t)],
    "attention": lambda s, t: [attention_loss([s, s], [t, t])],
    "hcl": lambda s, t: [hcl_loss([s], [t])],
    "partial-l2": lambda s, t: [partial_l2(s, t, torch.full((3,), -0.5, device=s.device))],
    "sp": lambda s, t: [similarity_loss(s, t)],
    "nst": lambda s, t: [selectivity_loss([s, s], [t, t])],
    "ft": lambda s, t: [factor_loss(s, t)],
    "fsp": lambda s, t: [flow_loss([s, s], [t, t])],
    "ab": lambda s, t: [boundary_loss(s, t, 1.0)],
    "vid": lambda s, t: [gaussian_nll(s, torch.full((3,), 2.0, device=s.device), t)],
}
POOLED: dict[str, Loss] = {"rkd": rkd_loss, "pkt": lambda s, t: [neighbour_loss(s, t)]}
LOSSES = LOGITS | MAPS | POOLED


def pair(name: str) -> list[Tensor]:
    shape = (BATCH, 3, 8, 8) if name in MAPS else (BATCH, CLASSES)
    return [5 * torch.randn(shape) for _ in range(2)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    narrow = [x.to(dtype) for x in pair(name)]
    exact = LOSSES[name](*(x.double() for x in narrow))
    for found, right in zip(LOSSES[name](*narrow), exact, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_reach_a_loss(name: str) -> None:
    s, t = pair(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = LOSSES[name](s, t)
    torch.testing.assert_close(tuple(mixed), tuple(LOSSES[name](s, t)), rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits_for_the_device(name: str) -> None:
    """A tensor on the ``meta`` device has no values and raises an error when one is read."""
    assert all(loss.shape == () for loss in LOSSES[name](*(x.to("meta") for x in pair(name))))


@pytest.mark.parametrize("name", [*DISTILLATION_LOGITS, *MAPS, *POOLED])
def test_only_the_student_learns(name: str) -> None:
    s, t = (x.requires_grad_() for x in pair(name))
    for loss in LOSSES[name](s, t):
        by_s, by_t = torch.autograd.grad(loss, (s, t), allow_unused=True, retain_graph=True)
        assert bool(by_s.isfinite().all())
        assert bool(by_s.any())
        assert by_t is None


@pytest.mark.parametrize("name", LOGITS)
def test_a_constant_added_to_all_logits_changes_nothing(name: str) -> None:
    s, t = (x.double() for x in pair(name))
    for shifted in ((s + 17, t), (s, t + 17)):
        torch.testing.assert_close(
            tuple(LOSSES[name](*shifted)), tuple(LOSSES[name](s, t)), rtol=1e-10, atol=1e-10
        )


# AB has a margin, VID also predicts a variance, and DIST adds 1e-8 to small lengths.
NEVER_ZERO = {"ab", "vid", "dist"}


@pytest.mark.parametrize("name", sorted({*DISTILLATION_LOGITS, *MAPS, *POOLED} - NEVER_ZERO))
def test_a_perfect_student_has_no_loss_but_the_teachers_entropy(name: str) -> None:
    t = pair(name)[1].double()
    losses = LOSSES[name](t, t)
    expected = [torch.zeros(()) for _ in losses]
    if name in ("ikl", "gkl"):
        soft = (t / 4).softmax(1)
        expected[1] = -(soft * soft.log()).sum(1).mean()
    for found, right in zip(losses, expected, strict=True):
        assert float(found) == pytest.approx(float(right), abs=1e-12)
