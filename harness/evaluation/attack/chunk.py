"""One chunk of the test set through all stages of the protocol."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import torch
from torch import Tensor

from harness.config import AttackName
from harness.evaluation.attack.judge import (
    NO_PREDICTION,
    clip_to_ball,
    margin,
    perturbation_norm,
    predict,
)
from harness.evaluation.attack.model import AttackModel, Judge, no_progress, within_memory
from harness.evaluation.attack.protocol import (
    Threat,
    aimed_targets,
    make_attack,
    passes,
    zero_gradient_starts,
)
from harness.evaluation.attack.stages import NO_TARGET
from harness.evaluation.speed.batching import Batching
from harness.store.verdicts import VERDICT_SCHEMA

ProgressFn = Callable[[float, str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of the evaluated set.

    Attributes:
        number: from 0.
        seed: of its attacks.
        rows: rows of the test split [N], int64.
        labels: [N], int64.
        images: float32 [N, K, H, W] in [0, 1].
    """

    number: int
    seed: int
    rows: Tensor
    labels: Tensor
    images: Tensor


@dataclass
class StageFacts:
    """What one stage did to a chunk.

    Attributes:
        attacked: images it was given, all correctly classified by then.
        by_judge: those of them that the attacked network gets wrong before any attack; they were
            attacked through the judge's network instead.
        broken: images it broke.
        forward: images that went forward through the attacked network.
        backward: images that went backward through it.
        repeated: images that went forward once more for want of memory.
        seconds: wall-clock time.
        left_ball: returned images that were outside the ball or [0, 1], and were put back.
        not_finite: logits rows met on the way that were not finite.
        zero_gradient: attack runs that began on points with zero gradient.
    """

    attacked: int
    by_judge: int
    broken: int
    forward: int
    backward: int
    repeated: int
    seconds: float
    left_ball: int
    not_finite: int
    zero_gradient: int

    def add(self, more: StageFacts) -> None:
        """Count what it took to attack some of the images anew, through the judge's network."""
        self.by_judge += more.attacked
        self.forward += more.forward
        self.backward += more.backward
        self.repeated += more.repeated
        self.seconds += more.seconds
        self.left_ball += more.left_ball
        self.not_finite += more.not_finite
        self.zero_gradient += more.zero_gradient


Stage = tuple[Tensor, StageFacts, Tensor | None]


class Verdicts:
    """The verdict of every image of a chunk, as it stands."""

    def __init__(self, chunk: Chunk, logits: Tensor) -> None:
        """Verdicts after the clean pass, from its logits [N, C]."""
        labels = chunk.labels.to(logits.device)
        self.chunk = chunk
        self.clean_pred = predict(logits)
        self.correct = self.clean_pred == labels
        self.adv_pred = self.clean_pred.clone()
        self.margin = margin(logits, labels)
        self.distance = torch.zeros(len(labels), dtype=torch.float64, device=logits.device)
        self.target = torch.full_like(labels, NO_TARGET)
        self.broken_by: list[str | None] = [None if c else "clean" for c in self.correct.tolist()]

    def broke(
        self,
        positions: Tensor,
        stage: AttackName,
        logits: Tensor,
        distance: Tensor,
        target: Tensor | None,
    ) -> None:
        """A stage broke the images at those positions [M], with those logits [M, C]."""
        self.correct[positions] = False
        self.adv_pred[positions] = predict(logits)
        self.margin[positions] = margin(logits, self.chunk.labels.to(logits.device)[positions])
        self.distance[positions] = distance
        if target is not None:
            self.target[positions] = target
        for position in positions.tolist():
            self.broken_by[position] = stage

    def table(self) -> pa.Table:
        """One row an image, as it is stored; null where there is no target or no finite margin."""
        columns = {
            "index": self.chunk.rows,
            "label": self.chunk.labels,
            "clean_pred": self.clean_pred,
            "adv_pred": self.adv_pred,
            "distance": self.distance,
        }
        rows: dict[str, list[Any]] = {name: values.tolist() for name, values in columns.items()}
        rows["broken_by"] = list(self.broken_by)
        rows["target"] = [None if t == NO_TARGET else t for t in self.target.tolist()]
        rows["margin"] = [None if m != m else m for m in self.margin.tolist()]
        return pa.Table.from_pydict(
            {name: rows[name] for name in VERDICT_SCHEMA.names}, schema=VERDICT_SCHEMA
        )


@dataclass
class Outcome:
    """A finished chunk.

    Attributes:
        verdicts: one row an image.
        stages: stage name to its facts; a stage that found nothing to attack is missing.
        clean_not_finite: clean images whose logits are not finite.
        adversarial: float32 [N, K, H, W], the clean image where none was found.
        out_of_memory: what ran out of memory and was begun anew with half the images at once, in
            order: the stage, or ``judge``.
    """

    verdicts: pa.Table
    stages: dict[str, StageFacts]
    clean_not_finite: int
    adversarial: Tensor
    out_of_memory: list[str]

    def facts(self) -> dict[str, Any]:
        """What is stored beside the verdicts."""
        return {
            "stages": {name: asdict(facts) for name, facts in self.stages.items()},
            "clean_not_finite": self.clean_not_finite,
            "out_of_memory": self.out_of_memory,
        }


@dataclass
class Attacker:
    """Attacks chunks; made once for a network.

    Attributes:
        attacked: the network that the attacks query, perhaps accelerated.
        exact: the untouched network, for images that the attacked one gets wrong.
        judge: answers for the untouched network.
        threat: what the attacks may do.
        attacks: stages in order.
        device: where to compute.
        attacking: makes the context in which attacks run, which pins their arithmetic.
        judging: makes the context in which the judge runs.
    """

    attacked: AttackModel
    exact: AttackModel
    judge: Judge
    threat: Threat
    attacks: tuple[AttackName, ...]
    device: torch.device
    attacking: Callable[[], AbstractContextManager[Any]]
    judging: Callable[[], AbstractContextManager[Any]]
    _halvings: list[str] = field(default_factory=list, init=False)

    def run(self, chunk: Chunk, say: ProgressFn) -> Outcome:
        """Clean pass, then each stage on what survived the ones before, from the clean images.

        Args:
            chunk: the images.
            say: is told the share of the work that is done, in [0, 1], and what is being done.
        """
        self._halvings = []
        x, labels = chunk.images.to(self.device), chunk.labels.to(self.device)
        verdicts = Verdicts(chunk, self.judged(x))
        lost = self._lost(x, labels)
        adversarial = x.clone()
        stages: dict[str, StageFacts] = {}
        for number, name in enumerate(self.attacks):
            alive = verdicts.correct.nonzero()[:, 0]
            if not len(alive):
                break
            share = Share(self, number, len(alive), chunk, say)
            found, facts, target = self._attack(
                name, x[alive], labels[alive], lost[alive], chunk.seed, share
            )
            logits = self.judged(found)
            broken = predict(logits) != labels[alive]
            facts.broken = int(broken.sum())
            stages[name] = facts
            adversarial[alive[broken]] = found[broken]
            verdicts.broke(
                alive[broken],
                name,
                logits[broken],
                perturbation_norm(found[broken], x[alive[broken]], self.threat.norm),
                None if target is None else target[broken],
            )
        say(1.0, "")
        not_finite = int((verdicts.clean_pred == NO_PREDICTION).sum())
        return Outcome(verdicts.table(), stages, not_finite, adversarial.cpu(), self._halvings)

    def _lost(self, x: Tensor, y: Tensor) -> Tensor:
        """Which images [N] the attacked network gets wrong as they are.

        By its rounding it may do so near a boundary, where the judge gets them right. The attacks
        leave such images alone, which would count as robust though nobody had attacked them.
        """
        self.attacked.listener = no_progress
        with torch.no_grad(), self.attacking():
            logits = self._fitted("clean", self.attacked.batching, len(x), lambda: self.attacked(x))
        return predict(logits) != y

    def _attack(
        self, name: AttackName, x: Tensor, y: Tensor, lost: Tensor, seed: int, share: Share
    ) -> Stage:
        """One attack through the attacked network; images that it has lost, through the judge's."""
        arguments = name, seed, share
        found, facts, target = self._fitted(
            name,
            self.attacked.batching,
            len(x),
            partial(self._stage, self.attacked, self.attacking, x, y, *arguments),
        )
        if bool(lost.any()):
            again, more, aimed = self._fitted(
                name,
                self.exact.batching,
                int(lost.sum()),
                partial(self._stage, self.exact, self.judging, x[lost], y[lost], *arguments),
            )
            found[lost] = again
            facts.add(more)
            if target is not None and aimed is not None:
                target[lost] = aimed
        return found, facts, target

    def _stage(
        self,
        network: AttackModel,
        arithmetic: Callable[[], AbstractContextManager[Any]],
        x: Tensor,
        y: Tensor,
        name: AttackName,
        seed: int,
        share: Share,
    ) -> Stage:
        """One attack: images like ``x`` inside the ball, what it cost, and its targets [M]."""
        network.reset()
        if network is self.attacked:
            share.again()
            network.listener = share.advance
        attack = make_attack(name, network, self.threat, seed, self.device)
        began = time.perf_counter()
        with arithmetic():
            returned = attack.perturb(x.clone(), y.clone()).detach()
        found, outside = clip_to_ball(returned, x, self.threat.norm, self.threat.eps)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - began
        not_finite = network.not_finite
        facts = StageFacts(
            attacked=len(x),
            by_judge=0,
            broken=0,
            forward=network.forward_images,
            backward=network.backward_images,
            repeated=network.repeated_images,
            seconds=seconds,
            left_ball=int(outside.sum()),
            not_finite=0 if not_finite is None else int(not_finite),
            zero_gradient=zero_gradient_starts(attack),
        )
        return found, facts, aimed_targets(attack)

    def judged(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W] by the untouched network in strict float32."""
        with torch.no_grad(), self.judging():
            return self._fitted("judge", self.judge.batching, len(x), lambda: self.judge(x).float())

    def _fitted(self, what: str, batching: Batching, count: int, attempt: Callable[[], T]) -> T:
        """The outcome of the attempt, which seeds itself, within memory; halvings are noted."""
        return within_memory(batching, count, attempt, lambda: self._halvings.append(what))


class Share:
    """How much of a chunk's work is done, from the passes of the stage that runs.

    What remains is reckoned as if nothing more broke, so that the share only grows.
    """

    def __init__(
        self, attacker: Attacker, stage: int, alive: int, chunk: Chunk, say: ProgressFn
    ) -> None:
        """For the stage of that number, which attacks ``alive`` images."""
        costs = [passes(name, attacker.threat) for name in attacker.attacks]
        everything = len(chunk.labels) * sum(sum(cost) for cost in costs)
        remaining = alive * sum(sum(cost) for cost in costs[stage:])
        self._before = 1 - remaining / everything
        self._share = alive * sum(costs[stage]) / everything
        self._expected = alive * costs[stage][0]
        self._seen = 0
        self._say = say
        self._note = f"{attacker.attacks[stage]}, {alive} images left"
        say(self._before, self._note)

    def again(self) -> None:
        """The stage begins anew."""
        self._seen = 0

    def advance(self, images: int) -> None:
        """So many more images went forward."""
        self._seen += images
        self._say(self._before + self._share * min(1.0, self._seen / self._expected), self._note)
