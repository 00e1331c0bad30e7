"""The progress of a part of an evaluation as progress of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config import EvalProtocol, eps_text
from harness.evaluation.attack.job import ProgressFn


def never_falling(progress: ProgressFn) -> ProgressFn:
    """Progress whose share never falls, also where more images survive than was expected."""
    most = 0.0

    def advance(share: float, note: str) -> None:
        nonlocal most
        most = max(most, share)
        progress(most, note)

    return advance


def of_radius(progress: ProgressFn, number: int, protocols: Sequence[EvalProtocol]) -> ProgressFn:
    """The share of one radius as a share of all of them; one without attacks takes no time."""
    weights = [1.0 if protocol.attacks else 0.0 for protocol in protocols]
    if not any(weights):
        weights = [1.0] * len(weights)
    before, total = sum(weights[:number]), sum(weights)
    where = f"eps {eps_text(protocols[number].eps)}, " if len(protocols) > 1 else ""

    def advance(share: float, note: str) -> None:
        progress((before + share * weights[number]) / total, note and f"{where}{note}")

    return advance


def of_missing(progress: ProgressFn, finished: int, missing: int, chunks: int) -> ProgressFn:
    """The share of the missing chunks as a share of all, of which so many are finished."""
    return lambda share, note: progress((finished + share * missing) / chunks, note)
