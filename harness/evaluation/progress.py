"""Convert the progress of a part of an evaluation to progress of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config import eps_text
from harness.progress import ProgressFn, part_of


def monotonic(progress: ProgressFn) -> ProgressFn:
    """Keep the share from falling, even if more images survive than expected."""
    most = 0.0

    def advance(share: float, note: str) -> None:
        nonlocal most
        most = max(most, share)
        progress(most, note)

    return advance


def for_radius(progress: ProgressFn, number: int, radii: Sequence[float]) -> ProgressFn:
    """Convert one radius's share to a share of all radii; radius 0 has no attack and weight 0."""
    weights = [1.0 if eps else 0.0 for eps in radii] if any(radii) else [1.0]
    before, total = sum(weights[:number]), sum(weights)
    where = f"eps {eps_text(radii[number])}, " if len(radii) > 1 else ""

    def with_radius(share: float, note: str) -> None:
        progress(share, note and f"{where}{note}")

    return part_of(with_radius, before, weights[number], total)
