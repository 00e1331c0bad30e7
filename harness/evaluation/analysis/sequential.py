"""Intervals and decisions that stay valid whenever an evaluation stops.

Images are drawn one after the other, in random order and without replacement, from a test set of
``population`` images. For each candidate mean a bettor wagers on the next image against the mean
that the remaining images would then have. The odds are fair if the candidate is the truth, so that
the bettor's capital exceeds 1 / alpha at any time with probability at most alpha (Ville). The
candidates against which it has not done so form an interval that holds the accuracy on the whole
test set at all times at once, with probability at least 1 - alpha.

Source: I. Waudby-Smith and A. Ramdas, Journal of the Royal Statistical Society B 86 (2024) 1-27,
section 5; the stakes are a mixture of constant fractions of what may be lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

Winner = Literal["a", "b", "equal"]
# The fractions of what may be lost that are staked. Small ones resolve small differences late,
# large ones large differences early; between neighbours of ratio sqrt(2) little is lost.
STAKES = 0.7 / math.sqrt(2) ** np.arange(14)


def log_capital(values: ArrayLike, population: int, mean: float) -> NDArray[np.float64]:
    """Log of the capital of bets that the mean is larger than ``mean``, after each value.

    Args:
        values: [T] in [0, 1], in the order in which they were drawn.
        population: N, the number of values from which they were drawn without replacement.
        mean: the candidate for the mean of all N values.

    Returns:
        [T]; infinite from the first value on after which the mean cannot be that small.
    """
    x = np.asarray(values, dtype=np.float64)
    drawn = np.concatenate([[0.0], np.cumsum(x)])
    left = population * mean - drawn
    # The mean of the values that remain before each draw, if the candidate is the truth.
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
        correct_b: bool [T], whether the second is, image for image.
        population: N, the images of the test set.
        alpha: the probability that the interval ever misses the difference.
    """
    low, high = _ends(_halved(correct_a, correct_b), population, alpha)
    return (low - population) / population, (high - population) / population


def equality_p_value(correct_a: ArrayLike, correct_b: ArrayLike, population: int) -> float:
    """p-value, valid at any stopping time, that two models are equally accurate on all images."""
    x = _halved(correct_a, correct_b)
    both = np.stack([log_capital(x, population, 0.5), log_capital(1 - x, population, 0.5)])
    return float(min(1.0, 2 * np.exp(-both.max())))


@dataclass(frozen=True)
class DecisionRule:
    """When to stop comparing two models.

    Attributes:
        alpha: probability of calling one better where there is no difference, or equal where they
            differ by more than the margin.
        margin: the models are equal if their accuracies differ by no more; 0 never calls them so.
        n_max: images after which to stop undecided; None is the whole test set.
    """

    alpha: float = 0.05
    margin: float = 0.01
    n_max: int | None = None

    def winner(self, low: float, high: float) -> Winner | None:
        """What an interval of the difference a - b decides; None is nothing yet."""
        if low > 0 or high < 0:
            return "a" if low > 0 else "b"
        return "equal" if max(-low, high) <= self.margin else None


@dataclass(frozen=True)
class Look:
    """What is known after some images.

    Attributes:
        n: images so far.
        difference: accuracy of the first model minus that of the second on them.
        low: lower end of the interval of the difference on all images.
        high: its upper end.
    """

    n: int
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as ``A - B +5.80 [+2.97, +8.69] points after 500 images``."""
        difference, low, high = (100 * x for x in (self.difference, self.low, self.high))
        return f"A - B {difference:+.2f} [{low:+.2f}, {high:+.2f}] points after {self.n} images"


def look(correct_a: ArrayLike, correct_b: ArrayLike, population: int, alpha: float) -> Look:
    """What the images [T] so far say; see ``difference_interval``."""
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    low, high = difference_interval(a, b, population, alpha)
    return Look(len(a), (int(a.sum()) - int(b.sum())) / len(a), low, high)


def _halved(correct_a: ArrayLike, correct_b: ArrayLike) -> NDArray[np.float64]:
    """Differences of two indicators [T], moved from [-1, 1] to [0, 1]."""
    a, b = np.asarray(correct_a, dtype=np.float64), np.asarray(correct_b, dtype=np.float64)
    return (a - b + 1) / 2


def _ends(values: NDArray[np.float64], population: int, alpha: float) -> tuple[int, int]:
    """The ends of the interval of twice the sum of all N values, which is a whole number."""
    if not 1 <= len(values) <= population:
        raise ValueError(f"{len(values)} values drawn from {population}")
    lower = _lower(values, population, alpha / 2)
    return lower, 2 * population - _lower(1 - values, population, alpha / 2)


def _lower(values: NDArray[np.float64], population: int, alpha: float) -> int:
    """The smallest double sum that is not rejected as too small, by bisection."""
    rejected, accepted = -1, int(2 * (values.sum() + population - len(values)))
    while accepted - rejected > 1:
        middle = (rejected + accepted) // 2
        mean = middle / (2 * population)
        if log_capital(values, population, mean)[-1] >= -math.log(alpha):
            rejected = middle
        else:
            accepted = middle
    return accepted
