"""Expected cost of the stages and chunks of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import EvalProtocol
from harness.evaluation.attack.stages import passes


@dataclass(frozen=True)
class StageCost:
    """Expected cost of one stage.

    Attributes:
        survival: share of the attacked images that it does not break.
        fixed_s: seconds independent of the number of images.
        image_s: additional seconds per attacked image.
    """

    survival: float
    fixed_s: float
    image_s: float

    def seconds(self, images: float) -> float:
        """Return the cost of ``images`` images; below 1, that is the probability of one."""
        return min(1.0, images) * self.fixed_s + images * self.image_s


@dataclass(frozen=True)
class Forecast:
    """Expected cost of the chunks of an evaluation, in seconds or in passes.

    Attributes:
        clean: share of the images that are classified correctly.
        stages: cost of each attack, in order.
    """

    clean: float
    stages: tuple[StageCost, ...]

    def remaining(self, stage: int, alive: float) -> float:
        """Return the cost of this and the later stages on a chunk with ``alive`` images left."""
        total = 0.0
        for cost in self.stages[stage:]:
            total += cost.seconds(alive)
            alive *= cost.survival
        return total

    def wall_s(self, chunks: Iterable[int], workers: int) -> float:
        """Return the seconds that ``workers`` workers take for chunks of these sizes."""
        busy = [0.0] * workers
        for size in chunks:
            first = busy.index(min(busy))
            busy[first] += self.remaining(0, size * self.clean)
        return max(busy)

    @classmethod
    def by_passes(cls, protocol: EvalProtocol, num_classes: int) -> Forecast:
        """Build a forecast in passes per image, as if no attack broke any image."""
        costs = [sum(passes(name, protocol.budget, num_classes)) for name in protocol.attacks]
        return cls(1.0, tuple(StageCost(1.0, 0.0, cost) for cost in costs))

    @classmethod
    def from_chunks(
        cls, images: int, facts: Sequence[dict[str, Any]], attacks: Sequence[str]
    ) -> Forecast:
        """Build a forecast from finished chunks of ``images`` images; see ``ChunkResult.facts``."""

        def total(name: str, what: str) -> float:
            return float(sum(chunk["stages"].get(name, {}).get(what, 0) for chunk in facts))

        stages = []
        for name in attacks:
            attacked = total(name, "attacked") or 1
            survival = 1 - total(name, "broken") / attacked
            stages.append(StageCost(survival, 0.0, total(name, "seconds") / attacked))
        return cls(total(attacks[0], "attacked") / images, tuple(stages))
