"""The losses against their formulas, written plainly in float64."""

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
    soft_cross_entropy,
    weighted_mse,
    weighted_mse_per_sample,
)

TOLERANCE = 1e-10


def draw_logits(batch: int, classes: int, *, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    pair = scale * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return pair[0].clone().requires_grad_(), pair[1].clone().requires_grad_()


def draw_weights(batch: int, classes: int, *, normalised: bool) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    weights = torch.rand(batch, classes, generator=generator, dtype=torch.float64)
    return weights / weights.sum(-1, keepdim=True) if normalised else weights


def pairwise_mse(logits_m: Tensor, logits_n: Tensor, weights: Tensor) -> Tensor:
    """1/4 sum_jk w_j w_k (Delta m_jk - Delta n_jk)^2 per sample, all pairs spelled out."""
    delta_m = logits_m.unsqueeze(2) - logits_m.unsqueeze(1)
    delta_n = logits_n.unsqueeze(2) - logits_n.unsqueeze(1)
    pair_weights = weights.unsqueeze(2) * weights.unsqueeze(1)
    return ((delta_m - delta_n).square() * pair_weights).sum((1, 2)) / 4


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True)


def assert_same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("classes", [10, 100])
def test_kl_is_torchs_and_the_printed_sum(classes: int) -> None:
    m, n = draw_logits(8, classes)
    s_m, s_n = softmax(m, -1), softmax(n, -1)
    printed = (s_m * (s_m / s_n).log()).sum(-1).mean()
    torchs = kl_div(log_softmax(n, -1), log_softmax(m, -1), log_target=True, reduction="batchmean")
    ours = kl_divergence(m, n)
    for expected in (printed, torchs):
        assert_same((ours, *gradients(ours, m, n)), (expected, *gradients(expected, m, n)))


def test_kl_gradients_are_those_printed() -> None:
    """Eqs. 3 and 4 for one sample."""
    m, n = draw_logits(1, 10)
    s_m, s_n = softmax(m[0], -1).detach(), softmax(n[0], -1).detach()
    difference = (m - n)[0].detach()
    eq3 = ((difference[:, None] - difference[None, :]) * s_m[:, None] * s_m[None, :]).sum(1)
    eq4 = s_m * (s_n - 1) + s_n * (1 - s_m)
    by_m, by_n = gradients(kl_divergence(m, n), m, n)
    assert_same((by_m[0], by_n[0]), (eq3, eq4))


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("normalised", [True, False])
def test_closed_form_is_the_pairwise_sum(classes: int, normalised: bool) -> None:
    m, n = draw_logits(6, classes)
    weights = draw_weights(6, classes, normalised=normalised)
    expected_B = pairwise_mse(m, n, weights)
    assert_same((weighted_mse_per_sample(m, n, weights),), (expected_B,))
    ours, expected = weighted_mse(m, n, weights), expected_B.mean()
    assert_same((ours, *gradients(ours, m, n)), (expected, *gradients(expected, m, n)))


small = st.floats(-50, 50, allow_nan=False)
weight = st.floats(0, 5, allow_nan=False)


@given(rows=st.lists(st.tuples(small, small, weight), min_size=1, max_size=12), shift=small)
@settings(max_examples=60, deadline=None)
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
    by_m, by_n = gradients(loss_B.sum(), m, n)
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
    assert_same(
        (parts.wmse, parts.ce, *gradients(parts.wmse, m, n), *gradients(parts.ce, m, n)),
        (wmse, ce, *gradients(wmse, m, n), *gradients(ce, m, n)),
    )
    assert not gradients(parts.ce, m)[0].any(), "soft labels took a gradient"


@pytest.mark.parametrize("classes", [10, 100])
def test_kl_and_dkl_agree_in_gradient_and_not_in_value(classes: int) -> None:
    m, n = draw_logits(8, classes)
    kl, dkl = kl_divergence(m, n), dkl_loss(m, n).weighted(1, 1)
    assert_same(gradients(dkl, m, n), gradients(kl, m, n))
    assert abs(dkl - kl) > 1


def test_asymmetry() -> None:
    """A fixed reference idles the weighted MSE (Eq. 7) until its asymmetry is broken (Eq. 8)."""
    m, n = draw_logits(8, 10)
    m = m.detach()
    assert not dkl_loss(m, n).wmse.requires_grad
    broken = dkl_loss(m, n, break_asymmetry=True).wmse
    expected = pairwise_mse(m, n, softmax(m, -1)).mean()
    assert_same((broken, *gradients(broken, n)), (expected, *gradients(expected, n)))
    assert gradients(broken, n)[0].abs().max() > 1e-3


@pytest.mark.parametrize("classes", [10, 100])
def test_ikl_is_eq_6(classes: int) -> None:
    m, n = draw_logits(6, classes)
    weights = draw_weights(6, classes, normalised=True)
    expected = 20 * pairwise_mse(m, n, weights).mean()
    expected = expected - 3 * (softmax(m, -1).detach() * log_softmax(n, -1)).sum(-1).mean()
    ours = ikl_loss(m, n, weights).weighted(20, 3)
    assert_same((ours, *gradients(ours, m, n)), (expected, *gradients(expected, m, n)))


def test_uniform_class_weights_make_half_the_variance() -> None:
    m, n = draw_logits(6, 10)
    uniform = torch.full_like(m, 1 / 10)
    variance = (m - n).var(-1, correction=0).mean() / 2
    assert_same((ikl_loss(m, n, uniform).wmse,), (variance,))


@pytest.mark.parametrize("power", [1.0, 0.4, 0.2])
def test_gkl_is_one_ratio_over_the_batch(power: float) -> None:
    m, n = draw_logits(6, 10)
    weights = draw_weights(6, 10, normalised=True).square()
    q = weights**power
    expected = pairwise_mse(m, n, q).sum() / (q.unsqueeze(2) * q.unsqueeze(1)).sum()
    ours = gkl_loss(m, n, weights, power).wmse
    assert_same((ours, *gradients(ours, m, n)), (expected, *gradients(expected, m, n)))


def test_gkl_at_power_one_is_ikl() -> None:
    m, n = draw_logits(6, 10)
    weights = draw_weights(6, 10, normalised=True)
    gkl, ikl = (f.weighted(20, 3) for f in (gkl_loss(m, n, weights, 1.0), ikl_loss(m, n, weights)))
    assert_same((gkl, *gradients(gkl, m, n)), (ikl, *gradients(ikl, m, n)))


@pytest.mark.parametrize("side", [0, 1])
def test_a_constant_added_to_all_logits_changes_nothing(side: int) -> None:
    pair = draw_logits(6, 10)
    weights = draw_weights(6, 10, normalised=True)
    shifted = [logits + 17.0 if i == side else logits for i, logits in enumerate(pair)]

    def losses(m: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        dkl = (dkl_loss(m, n), dkl_loss(m, n, break_asymmetry=True))
        global_ones = (ikl_loss(m, n, weights), gkl_loss(m, n, weights, 0.3))
        return (kl_divergence(m, n), *(p for parts in dkl + global_ones for p in parts))

    assert_same(losses(*shifted), losses(*pair))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    m, n = (logits.detach().to(dtype) for logits in draw_logits(6, 100, scale=20.0))
    weights = draw_weights(6, 100, normalised=True).float()
    wide = [logits.double() for logits in (m, n)]
    for ours, exact in [
        (kl_divergence(m, n), kl_divergence(*wide)),
        (soft_cross_entropy(m, n), soft_cross_entropy(*wide)),
        (weighted_mse(m, n, weights), weighted_mse(*wide, weights)),
        (gkl_loss(m, n, weights, 0.4).wmse, gkl_loss(*wide, weights, 0.4).wmse),
    ]:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_far_apart_logits_stay_finite() -> None:
    m = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    n = torch.tensor([[-1000.0, 0.0, 1000.0]], requires_grad=True)
    kl, dkl = kl_divergence(m, n), dkl_loss(m, n).weighted(1, 1)
    for tensor in (kl, dkl, *gradients(kl, m, n), *gradients(dkl, m, n)):
        assert torch.isfinite(tensor).all()


def test_second_derivatives_are_exact() -> None:
    m, n = draw_logits(2, 5, scale=1.0)
    weights = draw_weights(2, 5, normalised=False)
    assert torch.autograd.gradgradcheck(lambda a, b: weighted_mse(a, b, weights), (m, n))


@pytest.mark.parametrize("views", [1, 2, 3])
def test_jensen_shannon_is_torchs_divergence_from_the_mean(views: int) -> None:
    logits = [draw_logits(8, 5 + view)[0][:, :5] for view in range(views)]
    mean = sum(softmax(each, -1) for each in logits) / views
    expected = sum(kl_div(mean.log(), softmax(each, -1), reduction="batchmean") for each in logits)
    ours, expected = jensen_shannon(logits), expected / views
    assert_same((ours, *gradients(ours, *logits)), (expected, *gradients(expected, *logits)))


def test_jensen_shannon_of_sure_predictions_that_all_differ_is_log_of_their_number() -> None:
    logits = [row[None].requires_grad_() for row in 1e4 * torch.eye(3, 4)]
    found = jensen_shannon(logits)
    torch.testing.assert_close(found, torch.tensor(3.0).log())
    assert all(torch.isfinite(each).all() for each in gradients(found, *logits))
