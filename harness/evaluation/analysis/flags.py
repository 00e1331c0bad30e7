"""Flags: reasons to doubt a number, shown next to it everywhere.

The list follows the warnings of AutoAttack's authors (Croce and Hein, ICML 2020, and the checks of
their package) and the tests of Carlini et al., On Evaluating Adversarial Robustness, 2019. The
rules here need only counts; those that need the model are in ``evaluation/probe.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.config import Norm
from harness.evaluation.analysis.statistics import binomial_p
from harness.store.text import counted

# Stage name to its facts over all images, in the order the stages ran.
Stages = Mapping[str, Mapping[str, Any]]

LARGE_EPS_POINTS = 0.1
SQUARE_POINTS = 0.002
TARGETED_POINTS = 0.1
TARGETED_SHARE = 0.25
WHITE_BOX = ("apgd-ce", "apgd-t", "fab-t")


class Flag(NamedTuple):
    """A reason to doubt a number.

    Attributes:
        name: from a fixed set, for queries.
        detail: what was found, in one clause with its numbers.
    """

    name: str
    detail: str


def grey_eps(norm: Norm, values: int) -> float:
    """Return the radius at which every image of ``values`` pixel values can become the same grey.

    It is 0.5 in Linf, and 0.5 times the square root of ``values`` in L2.
    """
    return 0.5 * (1.0 if norm == "Linf" else values**0.5)


def above_chance(survived: int, n: int, num_classes: int) -> bool:
    """Whether accuracy is 10 points above chance, which no model reaches on grey images.

    Chance is the accuracy of a classifier that always predicts the same class.
    """
    return survived > (1 / num_classes + LARGE_EPS_POINTS) * n


def flags_from_counts(stages: Stages, n: int, clean_not_finite: int) -> list[Flag]:
    """Return the flags that follow from the facts of the stages.

    Args:
        stages: the facts.
        n: images evaluated.
        clean_not_finite: clean images whose logits are not finite.
    """
    found = [
        non_finite(stages, clean_not_finite),
        square_after_white_box(stages, n),
        targeted_gap(stages, n),
        left_ball(stages),
    ]
    return [flag for flag in found if flag is not None]


def non_finite(stages: Stages, clean: int) -> Flag | None:
    """Flag logits that were not finite; they count as wrong."""
    attacked = sum(int(facts["not_finite"]) for facts in stages.values())
    if not clean + attacked:
        return None
    return Flag(
        "non-finite",
        f"logits were not finite for {counted(clean, 'clean image')} and at "
        f"{counted(attacked, 'point')} during the "
        "attacks; such a prediction counts as wrong",
    )


def significantly_more(count: int, n: int, share: float) -> bool:
    """Whether ``count`` of ``n`` images is evidence for a true share above ``share``.

    This is the exact binomial test at 5%, one-sided; equivalently, the lower end of the one-sided
    95% Clopper-Pearson interval is above ``share``. A threshold on the observed share alone would
    be crossed by 1 image of 360 at 0.2%. This test takes 3 of 360, 6 of 1,000 and 29 of 10,000, so
    that at a true share of 0.2% fewer than one evaluation in 20 is flagged; a model that hides its
    gradients loses tens of points and is flagged from 40 images on.
    """
    return binomial_p(count, n, share) < 0.05


def stages_before(stages: Stages, name: str) -> list[str]:
    """Return the stages that ran before stage ``name``, in order; none if it did not run."""
    names = list(stages)
    return names[: names.index(name)] if name in stages else []


def square_after_white_box(stages: Stages, n: int) -> Flag | None:
    """Flag if Square broke significantly over 0.2 points after gradient-based attacks.

    Nothing is flagged if no gradient-based attack ran before Square. The threshold is a rule of
    thumb of AutoAttack's authors; ``significantly_more`` accounts for ``n``.
    """
    if not any(name in WHITE_BOX for name in stages_before(stages, "square")):
        return None
    broken = int(stages["square"]["broken"])
    if not significantly_more(broken, n, SQUARE_POINTS):
        return None
    return Flag(
        "square-after-white-box",
        f"Square broke {broken} of {n} images ({100 * broken / n:.1f} points) that gradient-based "
        "attacks had not broken: gradients may be masked",
    )


def targeted_gap(stages: Stages, n: int) -> Flag | None:
    """Flag if APGD-T broke significantly over 10 points, and a quarter of what APGD-CE left."""
    if "apgd-ce" not in stages_before(stages, "apgd-t"):
        return None
    broken, left = int(stages["apgd-t"]["broken"]), int(stages["apgd-t"]["attacked"])
    points = significantly_more(broken, n, TARGETED_POINTS)
    if not points or not significantly_more(broken, left, TARGETED_SHARE):
        return None
    return Flag(
        "targeted-gap",
        f"APGD-T broke {broken} of the {left} images that were left after APGD-CE "
        f"({100 * broken / n:.1f} points): the cross-entropy's gradient is a poor guide here",
    )


def left_ball(stages: Stages) -> Flag | None:
    """Flag images that attacks returned outside the ball or [0, 1] and that were put back."""
    outside = sum(int(facts["left_ball"]) for facts in stages.values())
    if not outside:
        return None
    return Flag(
        "left-ball",
        f"attacks returned {counted(outside, 'image')} outside the ball or [0, 1], or not "
        "finite; each was put back before it was judged",
    )
