"""Intervals and decisions that stay valid whenever an evaluation stops.

Images are drawn one after the other, in random order and without replacement, from a test set of
``population`` images. For each candidate mean, a bettor wagers on the next image against the mean
that the remaining images would then have. If the candidate is the true mean, the odds are fair, so
the bettor's capital ever exceeds 1 / alpha with probability at most alpha (Ville's inequality). The
candidates for which it has not done so form an interval that contains the accuracy on the whole
test set at all times simultaneously, with probability at least 1 - alpha.

Source: I. Waudby-Smith and A. Ramdas, Journal of the Royal Statistical Society B 86 (2024) 1-27,
section 5; the stakes are a mixture of constant fractions of the largest possible loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from harness.errors import UserError

Winner = Literal["a", "b", "equal"]
# Stakes as fractions of the largest possible loss. Small ones detect small differences late, large
# ones detect large differences early; a ratio of sqrt(2) between neighbours loses little.
STAKES = 0.7 / math.sqrt(2) ** np.arange(14)


def log_capital(values: ArrayLike, population: int, mean: float) -> NDArray[np.float64]:
    """Log capital, after each value, of bets that the mean is larger than ``mean``.

    Args:
        values: [T] in [0, 1], in the order in which they were drawn.
        population: N, the number of values from which they were drawn without replacement.
        mean: the candidate for the mean of all N values.

    Returns:
        [T]; infinite from the value on after which the mean can no longer be that small.
    """
    x = np.asarray(values, dtype=np.float64)
    drawn = np.concatenate([[0.0], np.cumsum(x)])
    left = population * mean - drawn
    # The mean of the values remaining before each draw if the candidate is true.
    fair = left[:-1] / (population - np.arange(len(x)))
    odds = np.divide(x, fair, out=np.ones_like(x), where=fair > 0)
    capital = logsumexp(np.cumsum(np.log1p(STAKES * (odds - 1)[:, None]), axis=0), axis=1)
    impossible = np.maximum.accumulate(left[1:] < -1e-9 * population)
    return np.where(impossible, np.inf, capital - math.log(len(STAKES)))


def confidence_interval(
    values: ArrayLike, population: int, alpha: float = 0.05
) -> tuple[float, float]:
    """Interval of the mean of the whole population, valid at any stopping time.

    Args:
        values: [T] of 0, 1/2 and 1, T at least 1, in the order in which they were drawn.
        population: N, at least T.
        alpha: the probability that the interval ever misses the mean.
    """
    low, high = _ends(np.asarray(values, dtype=np.float64), population, alpha)
    return low / (2 * population), high / (2 * population)


def difference_interval(
    correct_a: ArrayLike, correct_b: ArrayLike, population: int, alpha: float = 0.05
) -> tuple[float, float]:
    """Interval of the difference of two accuracies on the whole test set, valid at any time.

    Args:
        correct_a: bool [T], whether the first model is right, in the order of drawing.
        correct_b: bool [T], whether the second is, for the same images.
        population: N, the number of images in the test set.
        alpha: the probability that the interval ever misses the difference.
    """
    low, high = _ends(_halved(correct_a, correct_b), population, alpha)
    return (low - population) / population, (high - population) / population


def equality_p_value(correct_a: ArrayLike, correct_b: ArrayLike, population: int) -> float:
    """p-value, valid at any stopping time, for equal accuracy of two models on all images."""
    x = _halved(correct_a, correct_b)
    both = np.stack([log_capital(x, population, 0.5), log_capital(1 - x, population, 0.5)])
    return float(min(1.0, 2 * np.exp(-both.max())))


@dataclass(frozen=True)
class DecisionRule:
    """When to stop comparing two models.

    Attributes:
        alpha: probability of calling one better if there is no difference, or calling them equal
            if they differ by more than the margin.
        margin: models whose accuracies differ by no more than this are equal; 0 never calls them
            equal.
        n_max: number of images after which to stop undecided; None is the whole test set.

    Raises:
        UserError: alpha is not in (0, 1), the margin is negative, or n_max is below 1.
    """

    alpha: float = 0.05
    margin: float = 0.01
    n_max: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.alpha < 1:
            raise UserError(
                f"alpha is {self.alpha:g}, not a probability between 0 and 1: give one such as 0.05"
            )
        if not self.margin >= 0:
            raise UserError(f"the margin is {self.margin:g}: give 0 or more, such as 0.01")
        if self.n_max is not None and self.n_max < 1:
            raise UserError(f"at most {self.n_max} images are to be used: give 1 or more")

    def winner(self, low: float, high: float) -> Winner | None:
        """Return the decision that an interval of the difference a - b allows; None if none yet."""
        if low > 0 or high < 0:
            return "a" if low > 0 else "b"
        return "equal" if max(-low, high) <= self.margin else None


@dataclass(frozen=True)
class RunningDifference:
    """Result after some of the images.

    Attributes:
        n: number of images so far.
        difference: accuracy of the first model minus that of the second on them.
        low: lower end of the interval of the difference on all images.
        high: its upper end.
    """

    n: int
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format as ``A - B +5.80 [+2.97, +8.69] points after 500 images``."""
        difference, low, high = (100 * x for x in (self.difference, self.low, self.high))
        return f"A - B {difference:+.2f} [{low:+.2f}, {high:+.2f}] points after {self.n} images"


def running_difference(
    correct_a: ArrayLike, correct_b: ArrayLike, population: int, alpha: float
) -> RunningDifference:
    """Compute the result on the images [T] so far; see ``difference_interval``."""
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    low, high = difference_interval(a, b, population, alpha)
    return RunningDifference(len(a), (int(a.sum()) - int(b.sum())) / len(a), low, high)


def _halved(correct_a: ArrayLike, correct_b: ArrayLike) -> NDArray[np.float64]:
    """Differences of two indicators [T], mapped from [-1, 1] to [0, 1]."""
    a, b = np.asarray(correct_a, dtype=np.float64), np.asarray(correct_b, dtype=np.float64)
    return (a - b + 1) / 2


def _ends(values: NDArray[np.float64], population: int, alpha: float) -> tuple[int, int]:
    """Return the ends of the interval for twice the sum of all N values, an integer."""
    if not 1 <= len(values) <= population:
        raise ValueError(f"{len(values)} values drawn from {population}")
    lower = _lower(values, population, alpha / 2)
    return lower, 2 * population - _lower(1 - values, population, alpha / 2)


def _lower(values: NDArray[np.float64], population: int, alpha: float) -> int:
    """Find by bisection the smallest value of twice the sum that is not rejected as too small."""
    rejected, accepted = -1, int(2 * (values.sum() + population - len(values)))
    while accepted - rejected > 1:
        middle = (rejected + accepted) // 2
        mean = middle / (2 * population)
        if log_capital(values, population, mean)[-1] >= -math.log(alpha):
            rejected = middle
        else:
            accepted = middle
    return accepted
