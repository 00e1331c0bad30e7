"""Evaluate two models on the same random images until it is decided which is more robust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import UserError
from harness.evaluation.analysis.paired import Comparison, compare
from harness.evaluation.analysis.sequential import (
    DecisionRule,
    RunningDifference,
    Winner,
    running_difference,
)
from harness.evaluation.analysis.stored import evaluated
from harness.store.rundir import EvaluationDirectory

# Evaluates a model on at least this many images of the random order and returns the evaluation.
Grow = Callable[[int], EvaluationDirectory]


@dataclass(frozen=True)
class Decision:
    """Result of a comparison until decided.

    Attributes:
        winner: ``a`` or ``b`` is more robust, or they are ``equal`` within the margin; None if the
            images ran out first.
        rule: the stopping rule.
        history: the result after each step; the last is the final one.
        population: number of images in the test set.
        comparison: all metrics on the images that both were evaluated on.
    """

    winner: Winner | None
    rule: DecisionRule
    history: tuple[RunningDifference, ...]
    population: int
    comparison: Comparison


def until_decided(
    grow_a: Grow,
    grow_b: Grow,
    rule: DecisionRule,
    *,
    chunks: int,
    show: Callable[[RunningDifference], None],
) -> Decision:
    """Evaluate two models on more and more images until the rule decides or the images run out.

    Images evaluated by earlier calls count: a call continues earlier ones, also those with another
    rule or opponent.

    Args:
        grow_a: evaluates the first model.
        grow_b: evaluates the second, on the same test set by the same protocol.
        rule: when to stop.
        chunks: how many to attack between checks of the rule.
        show: called with the result after each step.

    Raises:
        UserError: both are the same, or their test sets or protocols differ.
    """
    history: list[RunningDifference] = []
    n = 1
    while True:
        pair = [grow_a(n), grow_b(n)]
        a, b = map(evaluated, pair)
        if pair[0].path == pair[1].path:
            raise UserError(f"{a.name} would be compared with itself: name two models")
        comparison = compare(a, b)
        population, step = int(a.protocol["population"]), int(a.protocol["chunk_size"])
        # One of them may have more images from an earlier call.
        n = min(comparison.shared, -(-n // step) * step)
        robust = [each.verdicts["broken_by"].isna()[:n] for each in (a, b)]
        history.append(running_difference(robust[0], robust[1], population, rule.alpha))
        show(history[-1])
        winner = rule.winner(history[-1].low, history[-1].high)
        most = population if rule.n_max is None else min(population, rule.n_max)
        if winner is not None or n >= most:
            return Decision(winner, rule, tuple(history), population, comparison)
        n = min(n + chunks * step, most)
