"""Intervals and tests against published examples and plain sums."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.errors import UserError
from harness.evaluation.analysis.statistics import (
    binomial_p,
    compare_paired,
    mcnemar_exact,
    newcombe_paired,
    seeds_summary,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 10), (3, 10), (10, 10), (3145, 10_000), (257, 360)]
)
def test_wilson_equals_scipys(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_a_published_example():
    # Newcombe (1998), Statistics in Medicine 17:857-872, Table I: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(
    ("cells", "expected"),
    # Newcombe (1998), Statistics in Medicine 17:2635-2650, Table II, method 10.
    [((36, 12, 2, 0), (0.0569, 0.3404)), ((36, 14, 0, 0), (0.1528, 0.4167))],
)
def test_newcombe_of_published_examples(cells, expected):
    assert newcombe_paired(*cells) == pytest.approx(expected, abs=1e-4)


def test_mcnemar_is_the_sum_of_binomial_tails():
    b, c = 15, 5
    tail = sum(math.comb(20, k) for k in range(6)) / 2**20
    assert mcnemar_exact(b, c) == pytest.approx(2 * tail, rel=1e-12)
    assert mcnemar_exact(0, 0) == 1


@pytest.mark.parametrize(
    ("count", "n", "share"),
    [(0, 10, 0.1), (1, 1, 0.5), (5, 5, 0.5), (29, 10_000, 0.002), (41, 53, 0.5), (180, 360, 0.5)],
)
def test_binomial_tests_equal_scipys(count, n, share):
    one_sided = binomtest(count, n, share, alternative="greater").pvalue
    assert binomial_p(count, n, share) == pytest.approx(one_sided, rel=1e-10)
    assert mcnemar_exact(count, n - count) == pytest.approx(binomtest(count, n).pvalue, rel=1e-10)


def test_a_comparison_counts_the_four_cells():
    a = np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    b = np.array([1, 0, 0, 1, 0, 1], dtype=bool)
    found = compare_paired(a, b)
    assert (found.both, found.only_a, found.only_b, found.neither) == (2, 2, 1, 1)
    assert found.difference == pytest.approx(1 / 6)
    assert found.agreement == pytest.approx(0.5)
    assert found.low < found.difference < found.high
    with pytest.raises(UserError, match="cannot be compared"):
        compare_paired(a, b[:3])


def test_the_interval_of_a_paired_difference_covers():
    generator = np.random.default_rng(0)
    covered, draws = 0, 400
    for _ in range(draws):
        cells = generator.multinomial(200, [0.5, 0.2, 0.1, 0.2])
        low, high = newcombe_paired(*(int(count) for count in cells))
        covered += low <= 0.1 <= high
    assert 0.92 <= covered / draws <= 0.98


def test_a_single_seed_has_no_deviation_and_none_is_refused():
    assert math.isnan(seeds_summary([1.0]).std)
    with pytest.raises(UserError, match="no runs"):
        seeds_summary([])
