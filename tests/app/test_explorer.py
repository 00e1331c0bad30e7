"""The loss explorer's numbers against the formulas, written out in float64."""

import numpy as np
import pytest

from app.explorer import BROKEN, CE, DKL, IKL, KL, WMSE, class_mean, gradients, length, losses

M, N = (2.0, -1.0, 0.5), (0.3, 0.1, -0.7)
WEIGHTS = class_mean(3, 0, 0.7)


def softmax(logits) -> np.ndarray:
    powers = np.exp(np.asarray(logits) - max(logits))
    return powers / powers.sum()


def pairwise_gradient(weights) -> np.ndarray:
    """d/do_m of 1/4 sum_jk w_j w_k (Delta m_jk - Delta n_jk)^2, term by term."""
    difference = np.subtract(M, N)
    return np.array(
        [
            sum(weights[i] * weights[k] * (difference[i] - difference[k]) for k in range(3))
            for i in range(3)
        ]
    )


def test_gradients_are_those_of_the_formulas() -> None:
    found = {name: gradients(loss, M, N) for name, loss in losses(WEIGHTS, 1, 1).items()}
    p, q = softmax(M), softmax(N)
    assert found[KL].value == pytest.approx(float((p * np.log(p / q)).sum()))
    assert found[KL].to_n == pytest.approx(q - p)
    assert found[CE].to_n == pytest.approx(q - p)
    assert found[WMSE].to_m == pytest.approx(pairwise_gradient(p))
    assert found[BROKEN].to_n == pytest.approx(q - p - pairwise_gradient(p))
    assert found[IKL].to_m == pytest.approx(pairwise_gradient(WEIGHTS))
    assert found[DKL].to_m == pytest.approx(found[KL].to_m)
    assert found[DKL].to_n == pytest.approx(found[KL].to_n)


def test_a_detached_reference_leaves_wmse_idle_until_the_asymmetry_is_broken() -> None:
    found = {
        name: gradients(loss, M, N, detach_m=True) for name, loss in losses(WEIGHTS, 20, 3).items()
    }
    assert all(each.to_m == (0.0, 0.0, 0.0) for each in found.values())
    assert length(found[WMSE].to_n) == 0
    assert found[DKL].to_n == pytest.approx(found[CE].to_n)
    gap = np.subtract(found[BROKEN].to_n, found[DKL].to_n)
    assert gap == pytest.approx(-20 * pairwise_gradient(softmax(M)))


def test_temperature_divides_logits_and_multiplies_the_loss_by_its_square() -> None:
    loss = losses(WEIGHTS, 1, 1)[KL]
    plain = gradients(loss, [value / 4 for value in M], [value / 4 for value in N])
    warm = gradients(loss, M, N, temperature=4)
    assert warm.value == pytest.approx(16 * plain.value)
    assert warm.to_n == pytest.approx([4 * value for value in plain.to_n])
