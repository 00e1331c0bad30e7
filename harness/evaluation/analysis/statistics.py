"""Intervals and tests for accuracies, all on counts of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# scipy.stats has these under plainer names, but takes half a second to import.
from scipy.special import bdtr, bdtrc, ndtri, stdtr, stdtrit

from harness.errors import UserError

# The quantile of a symmetric distribution that bounds a two-sided 95% interval.
QUANTILE = 0.975


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a binomial proportion, without continuity correction.

    Source: E. B. Wilson, JASA 22 (1927) 209-212.

    Args:
        successes: in 0..n.
        n: observations, at least 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}")
    z = float(ndtri(QUANTILE))
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the formula gives exactly 0 or 1; rounding must not leave [0, 1].
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def accuracy(successes: int, n: int) -> dict[str, float]:
    """Return an accuracy with its 95% Wilson interval, as records store it."""
    low, high = wilson_interval(successes, n)
    return {"value": successes / n, "n": n, "low": low, "high": high}


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of the hypothesis that two classifiers are equally often right.

    This is the binomial test, against a fair coin, of the images on which exactly one of them is
    right. Without such images it is 1.

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, in its exact form.
    """
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def binomial_p(count: int, n: int, share: float) -> float:
    """One-sided exact p-value of at least ``count`` of ``n``, each with probability ``share``."""
    return float(bdtrc(count - 1, n, share))


@dataclass(frozen=True)
class PairedComparison:
    """Two models compared on the same images.

    Attributes:
        both: number of images on which both are right.
        only_a: number on which only the first is.
        only_b: number on which only the second is.
        neither: number on which neither is.
        difference: accuracy of the first minus that of the second.
        low: lower end of its 95% interval.
        high: upper end of its 95% interval.
        p_value: exact McNemar.
        agreement: share of images on which both are right or both wrong.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    low: float
    high: float
    p_value: float
    agreement: float

    @property
    def n(self) -> int:
        """The number of images compared."""
        return self.both + self.only_a + self.only_b + self.neither


def compare_paired(correct_a: ArrayLike, correct_b: ArrayLike) -> PairedComparison:
    """Compare two models image by image.

    Args:
        correct_a: bool [N], whether the first is right.
        correct_b: bool [N], whether the second is, for the same images.

    Raises:
        UserError: the lengths differ, or there is no image.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or not a.size:
        raise UserError(
            f"{a.size} and {b.size} images cannot be compared in pairs: choose two evaluations "
            "that share images"
        )
    both, only_a = int((a & b).sum()), int((a & ~b).sum())
    only_b, neither = int((~a & b).sum()), int((~a & ~b).sum())
    low, high = newcombe_paired(both, only_a, only_b, neither)
    return PairedComparison(
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        difference=(only_a - only_b) / a.size,
        low=low,
        high=high,
        p_value=mcnemar_exact(only_a, only_b),
        agreement=(both + neither) / a.size,
    )


def newcombe_paired(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """95% interval of a difference of two paired proportions: Wilson intervals, square-and-add.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10.
    """
    n = both + only_a + only_b + neither
    share_a, share_b = (both + only_a) / n, (both + only_b) / n
    low_a, high_a = wilson_interval(both + only_a, n)
    low_b, high_b = wilson_interval(both + only_b, n)
    phi = _corrected_phi(both, only_a, only_b, neither)
    down_a, up_a = share_a - low_a, high_a - share_a
    down_b, up_b = share_b - low_b, high_b - share_b
    below = math.sqrt(max(0.0, down_a**2 - 2 * phi * down_a * up_b + up_b**2))
    above = math.sqrt(max(0.0, up_a**2 - 2 * phi * up_a * down_b + down_b**2))
    difference = (only_a - only_b) / n
    return difference - below, difference + above


def _corrected_phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Phi correlation of the two verdicts; n/2 is subtracted from a positive numerator."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if not margins:
        return 0.0
    excess = both * neither - only_a * only_b
    n = both + only_a + only_b + neither
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    return corrected / math.sqrt(margins)


@dataclass(frozen=True)
class SeedsSummary:
    """Summary of a number over seeds.

    Attributes:
        mean: over seeds.
        std: sample standard deviation (ddof 1); NaN for one seed.
        low: lower end of the mean's t interval; NaN for one seed.
        high: its upper end.
        n: number of seeds.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int


def seeds_summary(values: Sequence[float]) -> SeedsSummary:
    """Return mean, sample standard deviation and Student's 95% t interval of one value per seed.

    Raises:
        UserError: there is no value.
    """
    if not values:
        raise UserError("there are no runs to average: choose at least one seed")
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return SeedsSummary(mean, math.nan, math.nan, math.nan, 1)
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(n - 1, QUANTILE)) * std / math.sqrt(n)
    return SeedsSummary(mean, std, mean - half, mean + half, n)


@dataclass(frozen=True)
class MeanDifference:
    """Difference of two means over seeds.

    Attributes:
        difference: the first mean minus the second.
        low: lower end of its interval; NaN if the spread over seeds is unknown.
        high: upper end; NaN in the same case.
        p_value: two-sided, for equal means; NaN in the same case.
    """

    difference: float
    low: float
    high: float
    p_value: float


def welch(a: Sequence[float], b: Sequence[float]) -> MeanDifference:
    """Welch's 95% t interval and test of the difference of two means over seeds.

    Seeds are not paired: two training runs with the same seed are no more alike than any others.
    If neither group's values vary, the statistic divides by 0 and has no degrees of freedom. A few
    seeds can agree by chance, so nothing is claimed then: interval and p-value are NaN.

    Source: B. L. Welch, Biometrika 34 (1947) 28-35.

    Raises:
        UserError: one of them has fewer than two values.
    """
    if min(len(a), len(b)) < 2:
        raise UserError("testing a mean over seeds needs at least two: train another seed")
    difference = float(np.mean(a) - np.mean(b))
    if not np.ptp(a) and not np.ptp(b):
        return MeanDifference(difference, math.nan, math.nan, math.nan)
    errors = [float(np.var(each, ddof=1)) / len(each) for each in (a, b)]
    error = math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(
        squared**2 / (len(each) - 1) for squared, each in zip(errors, (a, b), strict=True)
    )
    half = float(stdtrit(freedom, QUANTILE)) * error
    p_value = 2 * float(stdtr(freedom, -abs(difference) / error))
    return MeanDifference(difference, difference - half, difference + half, p_value)
