"""Intervals that are valid at any stopping time: exact arithmetic, coverage and decisions."""

from fractions import Fraction

import numpy as np
import pytest

from harness.evaluation.analysis import sequential
from harness.evaluation.analysis.sequential import (
    DecisionRule,
    confidence_interval,
    difference_interval,
    equality_p_value,
    log_capital,
)


def plain_capital(values: list[Fraction], population: int, mean: Fraction) -> list[Fraction]:
    """The bets one by one in exact arithmetic: each stake is a share of what may be lost."""
    stakes = [Fraction(float(stake)) for stake in sequential.STAKES]
    capital, drawn, after = [Fraction(1)] * len(stakes), Fraction(0), []
    for number, value in enumerate(values):
        fair = (population * mean - drawn) / (population - number)
        capital = [c * (1 + s * (value / fair - 1)) for c, s in zip(capital, stakes, strict=True)]
        drawn += value
        after.append(sum(capital, Fraction(0)) / len(stakes))
    return after


@pytest.mark.parametrize("halves", [1, 2])
def test_the_capital_is_that_of_bets_in_exact_arithmetic(halves):
    drawn = np.random.default_rng(0).integers(0, halves + 1, size=30)
    values = [Fraction(int(x), halves) for x in drawn]
    found = log_capital(drawn / halves, 90, 0.55)
    expected = [float(c) for c in plain_capital(values, 90, Fraction(0.55))]
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12)


def test_a_bet_against_the_truth_is_fair():
    """Over all orders of a small population, the mean capital at the true mean is 1."""
    values = np.array([1, 1, 0, 0, 0, 1, 0, 0])
    orders = [values[order] for order in permutations_of(len(values), 2000)]
    final = [np.exp(log_capital(order[:5], 8, values.mean())[-1]) for order in orders]
    assert np.mean(final) == pytest.approx(1, abs=4 * np.std(final) / np.sqrt(len(final)))


def permutations_of(n: int, count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.permutation(n) for _ in range(count)]


@pytest.mark.parametrize("robust", [0, 3, 150, 300])
def test_intervals_narrow_around_the_accuracy_and_end_at_it(robust):
    values = np.random.default_rng(robust).permutation(np.arange(300) < robust)
    widths = []
    for n in (1, 30, 150, 299):
        low, high = confidence_interval(values[:n], 300)
        assert 0 <= low <= robust / 300 <= high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert confidence_interval(values, 300) == pytest.approx((robust / 300, robust / 300))


def test_the_interval_is_where_the_capital_is_small():
    values = np.random.default_rng(3).permutation(np.arange(200) < 120)[:80]
    low, high = confidence_interval(values, 200, alpha=0.1)
    assert (
        log_capital(values, 200, low)[-1] < np.log(20) <= log_capital(values, 200, low - 0.005)[-1]
    )
    upper = [log_capital(1 - values, 200, 1 - mean)[-1] for mean in (high, high + 0.005)]
    assert upper[0] < np.log(20) <= upper[1]


def ever_misses(values: np.ndarray, mean: float, alpha: float) -> bool:
    """Whether the interval misses the mean after any of the values."""
    n = len(values)
    sides = (log_capital(values, n, mean), log_capital(1 - values, n, 1 - mean))
    # The last images leave no other mean, which rounding must not turn into a miss.
    return bool(np.max([side[:-1] for side in sides]) >= np.log(2 / alpha))


@pytest.mark.parametrize("accuracy", [0.05, 0.5, 0.95])
def test_coverage_at_all_times_at_once(accuracy):
    generator, population = np.random.default_rng(5), np.arange(400) < 400 * accuracy
    missed = [
        ever_misses(generator.permutation(population).astype(float), accuracy, 0.2)
        for _ in range(300)
    ]
    # With 20% allowed, 300 trials exceed 27% with a probability below 0.3%.
    assert np.mean(missed) <= 0.27


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
def test_coverage_of_two_thousand_evaluations(accuracy):
    generator, population = np.random.default_rng(7), np.arange(2000) < 2000 * accuracy
    missed = [
        ever_misses(generator.permutation(population).astype(float), accuracy, 0.05)
        for _ in range(2000)
    ]
    assert np.mean(missed) <= 0.05


def pair(population: int, only_a: int, only_b: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether two models are right on each image, in the order of their kinds."""
    kinds = np.arange(population)
    a = kinds < both + only_a
    b = (kinds < both) | ((kinds >= both + only_a) & (kinds < both + only_a + only_b))
    return a, b


def test_a_difference_is_found_and_its_size_lies_in_the_interval():
    a, b = pair(1000, only_a=120, only_b=20, both=500)
    order = np.random.default_rng(0).permutation(1000)
    a, b = a[order], b[order]
    low, high = difference_interval(a[:300], b[:300], 1000)
    assert 0 < low < 0.1 < high
    assert equality_p_value(a[:300], b[:300], 1000) < 0.05
    assert DecisionRule().winner(low, high) == "a"
    assert DecisionRule().winner(-high, -low) == "b"
    assert difference_interval(a, b, 1000) == pytest.approx((0.1, 0.1))


def test_equal_models_are_called_equal_within_the_margin_only():
    same = np.ones(500, dtype=bool)
    low, high = difference_interval(same[:400], same[:400], 500)
    assert low == pytest.approx(-high)
    assert DecisionRule(margin=0.01).winner(low, high) == "equal"
    assert DecisionRule(margin=0.001).winner(low, high) is None
    assert equality_p_value(same, same, 500) == 1.0


def test_the_p_value_agrees_with_the_interval():
    a, b = pair(600, only_a=60, only_b=20, both=300)
    order = np.random.default_rng(2).permutation(600)
    for n in range(20, 600, 20):
        low, high = difference_interval(a[order][:n], b[order][:n], 600, alpha=0.05)
        assert (low > 0 or high < 0) == (equality_p_value(a[order][:n], b[order][:n], 600) <= 0.05)
