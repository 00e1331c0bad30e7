"""The losses against plain float64 versions of their formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from methods.losses.divergence import (
    dkl_loss,
    gkl_loss,
    ikl_loss,
    jensen_shannon,
    kl_divergence,
    weighted_mse,
    weighted_mse_per_sample,
)
from tests.methods.conftest import assert_same_loss, gradients
from tests.methods.losses.transcriptions import pairwise_mse


def draw_logits(batch: int, classes: int, *, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    pair = scale * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return pair[0].clone().requires_grad_(), pair[1].clone().requires_grad_()


def draw_weights(batch: int, classes: int, *, normalised: bool) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    weights = torch.rand(batch, classes, generator=generator, dtype=torch.float64)
    return weights / weights.sum(-1, keepdim=True) if normalised else weights


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [10, 100])
def test_kl_is_torchs_and_the_printed_sum(classes: int) -> None:
    m, n = draw_logits(8, classes)
    s_m, s_n = softmax(m, -1), softmax(n, -1)
    printed = (s_m * (s_m / s_n).log()).sum(-1).mean()
    torchs = kl_div(log_softmax(n, -1), log_softmax(m, -1), log_target=True, reduction="batchmean")
    ours = kl_divergence(m, n)
    for expected in (printed, torchs):
        assert_same_loss(ours, expected, m, n)


def test_kl_gradients_are_those_printed() -> None:
    """Equations 3 and 4 for one sample."""
    m, n = draw_logits(1, 10)
    s_m, s_n = softmax(m[0], -1).detach(), softmax(n[0], -1).detach()
    difference = (m - n)[0].detach()
    eq3 = ((difference[:, None] - difference[None, :]) * s_m[:, None] * s_m[None, :]).sum(1)
    eq4 = s_m * (s_n - 1) + s_n * (1 - s_m)
    by_m, by_n = gradients(kl_divergence(m, n), [m, n])
    assert_same([by_m[0], by_n[0]], [eq3, eq4])


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("normalised", [True, False])
def test_closed_form_is_the_pairwise_sum(classes: int, normalised: bool) -> None:
    m, n = draw_logits(6, classes)
    weights = draw_weights(6, classes, normalised=normalised)
    expected_B = pairwise_mse(m, n, weights)
    assert_same([weighted_mse_per_sample(m, n, weights)], [expected_B])
    ours, expected = weighted_mse(m, n, weights), expected_B.mean()
    assert_same_loss(ours, expected, m, n)


small = st.floats(-50, 50, allow_nan=False)
weight = st.floats(0, 5, allow_nan=False)


@given(rows=st.lists(st.tuples(small, small, weight), min_size=1, max_size=12), shift=small)
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
def test_closed_form_for_any_weights_and_shift(
    rows: list[tuple[float, float, float]], shift: float
) -> None:
    m, n, w = torch.tensor(rows, dtype=torch.float64).T.unsqueeze(1)
    expected = pairwise_mse(m, n, w)
    torch.testing.assert_close(weighted_mse_per_sample(m, n, w), expected, rtol=1e-9, atol=1e-9)
    shifted = weighted_mse_per_sample(m + shift, n, w)
    torch.testing.assert_close(shifted, expected, rtol=1e-9, atol=1e-7)


def test_all_zero_weights_have_no_loss_and_no_gradient() -> None:
    m, n = draw_logits(3, 10)
    weights = draw_weights(3, 10, normalised=True)
    weights[1] = 0
    loss_B = weighted_mse_per_sample(m, n, weights)
    by_m, by_n = gradients(loss_B.sum(), [m, n])
    assert loss_B[1] == 0
    assert not by_m[1].any()
    assert not by_n[1].any()
    assert torch.isfinite(by_m).all()


def test_weights_take_no_gradient() -> None:
    m, n = draw_logits(3, 10)
    weights = draw_weights(3, 10, normalised=True).requires_grad_()
    loss = ikl_loss(m, n, weights).weighted(1, 1) + gkl_loss(m, n, weights, 0.5).wmse
    (gradient,) = torch.autograd.grad(loss, weights, allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize("classes", [10, 100])
def test_dkl_is_eq_5(classes: int) -> None:
    m, n = draw_logits(6, classes)
    s_m = softmax(m, -1).detach()
    wmse = pairwise_mse(m, n.detach(), s_m).mean()
    ce = -(s_m * log_softmax(n, -1)).sum(-1).mean()
    parts = dkl_loss(m, n)
    assert_same_loss(parts.wmse, wmse, m, n)
    assert_same_loss(parts.ce, ce, m, n)
    assert not gradients(parts.ce, [m])[0].any(), "soft labels took a gradient"


@pytest.mark.parametrize("classes", [10, 100])
def test_kl_and_dkl_agree_in_gradient_and_not_in_value(classes: int) -> None:
    m, n = draw_logits(8, classes)
    kl, dkl = kl_divergence(m, n), dkl_loss(m, n).weighted(1, 1)
    assert_same(gradients(dkl, [m, n]), gradients(kl, [m, n]))
    assert abs(dkl - kl) > 1


def test_asymmetry() -> None:
    """With a fixed reference, the weighted MSE has no gradient (Eq. 7) unless broken (Eq. 8)."""
    m, n = draw_logits(8, 10)
    m = m.detach()
    assert not dkl_loss(m, n).wmse.requires_grad
    broken = dkl_loss(m, n, break_asymmetry=True).wmse
    expected = pairwise_mse(m, n, softmax(m, -1)).mean()
    assert_same_loss(broken, expected, n)
    assert gradients(broken, [n])[0].abs().max() > 1e-3


@pytest.mark.parametrize("classes", [10, 100])
def test_ikl_is_eq_6(classes: int) -> None:
    m, n = draw_logits(6, classes)
    weights = draw_weights(6, classes, normalised=True)
    expected = 20 * pairwise_mse(m, n, weights).mean()
    expected = expected - 3 * (softmax(m, -1).detach() * log_softmax(n, -1)).sum(-1).mean()
    ours = ikl_loss(m, n, weights).weighted(20, 3)
    assert_same_loss(ours, expected, m, n)


def test_uniform_class_weights_make_half_the_variance() -> None:
    m, n = draw_logits(6, 10)
    uniform = torch.full_like(m, 1 / 10)
    variance = (m - n).var(-1, correction=0).mean() / 2
    assert_same([ikl_loss(m, n, uniform).wmse], [variance])


@pytest.mark.parametrize("power", [1.0, 0.4, 0.2, 0.0])
def test_gkl_is_one_ratio_over_the_batch(power: float) -> None:
    m, n = draw_logits(6, 10)
    weights = draw_weights(6, 10, normalised=True).square()
    q = weights**power
    expected = pairwise_mse(m, n, q).sum() / (q.unsqueeze(2) * q.unsqueeze(1)).sum()
    ours = gkl_loss(m, n, weights, power).wmse
    assert_same_loss(ours, expected, m, n)


def test_gkl_at_power_one_is_ikl() -> None:
    m, n = draw_logits(6, 10)
    weights = draw_weights(6, 10, normalised=True)
    gkl, ikl = (f.weighted(20, 3) for f in (gkl_loss(m, n, weights, 1.0), ikl_loss(m, n, weights)))
    assert_same_loss(gkl, ikl, m, n)


def test_far_apart_logits_stay_finite() -> None:
    m = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    n = torch.tensor([[-1000.0, 0.0, 1000.0]], requires_grad=True)
    kl, dkl = kl_divergence(m, n), dkl_loss(m, n).weighted(1, 1)
    for tensor in (kl, dkl, *gradients(kl, [m, n]), *gradients(dkl, [m, n])):
        assert torch.isfinite(tensor).all()


def test_second_derivatives_are_exact() -> None:
    m, n = draw_logits(2, 5, scale=1.0)
    weights = draw_weights(2, 5, normalised=False)
    assert torch.autograd.gradgradcheck(lambda a, b: weighted_mse(a, b, weights), (m, n))


@pytest.mark.parametrize("views", [1, 2, 3])
def test_jensen_shannon_is_torchs_divergence_from_the_mean(views: int) -> None:
    logits = [draw_logits(8, 5 + view)[0][:, :5] for view in range(views)]
    mean = sum(softmax(each, -1) for each in logits) / views
    total = sum(kl_div(mean.log(), softmax(each, -1), reduction="batchmean") for each in logits)
    losses = (jensen_shannon(logits), total / views)
    found, expected = ([loss, *gradients(loss, logits)] for loss in losses)
    assert_same(found, expected)


def test_jensen_shannon_of_sure_predictions_that_all_differ_is_log_of_their_number() -> None:
    logits = [row[None].requires_grad_() for row in 1e4 * torch.eye(3, 4)]
    found = jensen_shannon(logits)
    torch.testing.assert_close(found, torch.tensor(3.0).log())
    assert all(torch.isfinite(each).all() for each in gradients(found, logits))
