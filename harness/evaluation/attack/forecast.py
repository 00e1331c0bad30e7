"""How long an evaluation will take: from a short attack on a few of its images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.config import AttackBudget, AttackName, EvalProtocol
from harness.evaluation.attack.chunk import read_chunk
from harness.evaluation.attack.judge import clip_to_ball, predict
from harness.evaluation.attack.model import AttackModel, within_memory
from harness.evaluation.attack.stages import TARGETED, make_attack, passes, target_classes
from harness.evaluation.guards import own_random_state, unit_images
from harness.evaluation.speed.precision import pinned
from harness.progress import duration
from harness.seeding import seeded_generator

if TYPE_CHECKING:
    from harness.evaluation.attack.job import Job

# Of a large evaluation so many images are attacked first, of a small one half, but not fewer.
MOST_IMAGES, FEWEST_IMAGES = 256, 64
SHORT = {"n_iter": 10, "n_queries": 50, "n_target_classes": 3}
# For the cost of a pass of a single image, which a small network spends outside the network.
SHORTEST = {"n_iter": 3, "n_queries": 15, "n_target_classes": 1}
# Fewer images are repeated: the cost of an image is a difference of costs of passes.
TIMED_IMAGES = 16
# An evaluation that can take no longer is begun at once.
WORTHWHILE_S = 10.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class StageCost:
    """What one stage is expected to take.

    Attributes:
        survival: share of the images attacked that it does not break.
        fixed_s: seconds however few images there are.
        image_s: seconds more for each image attacked.
    """

    survival: float
    fixed_s: float
    image_s: float

    def seconds(self, images: float) -> float:
        """What it takes to attack so many; below one, that is how likely there is one."""
        return min(1.0, images) * self.fixed_s + images * self.image_s


@dataclass(frozen=True)
class Forecast:
    """What the chunks of an evaluation are expected to take, in seconds or in passes.

    Attributes:
        clean: share of the images that are classified correctly.
        stages: of each attack, in order.
    """

    clean: float
    stages: tuple[StageCost, ...]

    def remaining(self, stage: int, alive: float) -> float:
        """The cost of that stage and the later ones on a chunk of which ``alive`` are left."""
        total = 0.0
        for cost in self.stages[stage:]:
            total += cost.seconds(alive)
            alive *= cost.survival
        return total

    def wall_s(self, chunks: Iterable[int], workers: int) -> float:
        """Seconds until workers that take chunks of these sizes one by one are done."""
        busy = [0.0] * workers
        for size in chunks:
            first = busy.index(min(busy))
            busy[first] += self.remaining(0, size * self.clean)
        return max(busy)

    @classmethod
    def by_passes(cls, protocol: EvalProtocol, num_classes: int) -> Forecast:
        """In passes of an image, as if no attack broke any."""
        costs = [sum(passes(name, protocol.budget, num_classes)) for name in protocol.attacks]
        return cls(1.0, tuple(StageCost(1.0, 0.0, cost) for cost in costs))

    @classmethod
    def from_chunks(
        cls, images: int, facts: Sequence[dict[str, Any]], attacks: Sequence[str]
    ) -> Forecast:
        """As finished chunks of so many images took it; see ``ChunkResult.facts``."""

        def total(name: str, what: str) -> float:
            return float(sum(chunk["stages"].get(name, {}).get(what, 0) for chunk in facts))

        stages = []
        for name in attacks:
            attacked = total(name, "attacked") or 1
            survival = 1 - total(name, "broken") / attacked
            stages.append(StageCost(survival, 0.0, total(name, "seconds") / attacked))
        return cls(total(attacks[0], "attacked") / images, tuple(stages))


def expected(job: Job, workers: int | None) -> str | None:
    """Make the job's forecast, and say how long its attacks will take; None if that is not known.

    Args:
        job: the evaluation, whose chunks may be finished in part.
        workers: how many chunks are attacked at a time; None if that is not known.
    """
    missing = job.missing(range(job.chunks))
    if not missing or not job.protocol.attacks or workers is None:
        return None
    finished = sorted(set(range(job.chunks)) - set(missing))
    job.forecast = forecast(job, finished)
    # A decision between models lets both grow chunk by chunk: the first time says it.
    if job.forecast is None or (finished and job.protocol.order == "random"):
        return None
    sizes = [len(job.chunk(number).rows) for number in missing]
    seconds = duration(job.forecast.wall_s(sizes, workers))
    most = "at most " if job.protocol.half_width is not None else ""
    return f"{most}about {seconds} to attack {sum(sizes):,} images"


def forecast(
    job: Job, finished: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> Forecast | None:
    """What a job's chunks are expected to take here, in seconds; None where that is not worthwhile.

    Chunks that are finished tell it. Without any, each stage attacks a sample of the images with a
    cut budget, and one image alone: the share that survives and the seconds of a pass follow.
    docs/evaluation.md has what this takes, and how far off it was.

    Args:
        job: the evaluation.
        finished: the numbers of its chunks that are there.
        clock: the seconds by it.
    """
    protocol = job.protocol
    if finished:
        chunks = [read_chunk(job.directory.chunk_path(number)) for number in finished]
        images = sum(len(verdicts) for verdicts, _ in chunks)
        return Forecast.from_chunks(images, [facts for _, facts in chunks], protocol.attacks)
    count = len(job.positions)
    sample = min(count, MOST_IMAGES, max(FEWEST_IMAGES, count // 2))
    # Not at even steps: the digits are in the order of their classes, again and again.
    order = torch.randperm(count, generator=seeded_generator(CPU, protocol.seed, "forecast"))
    positions = job.positions[order[:sample]]
    x = unit_images(job.images, positions).to(job.device)
    y = job.images.labels[positions].to(job.device)
    short = _Short(job.attacked, protocol, job.device, clock)
    right, clean_s = short.clean(x, y)
    most = sum(sum(passes(name, protocol.budget, job.num_classes)) for name in protocol.attacks)
    if not right.any() or most * clean_s * count / sample < WORTHWHILE_S:
        return None
    x, y = x[right], y[right]
    clean, stages = len(x) / sample, []
    for name in protocol.attacks:
        cost, left = short.stage(name, x, y)
        stages.append(cost)
        # Where all break, later stages are timed on them all the same.
        x, y = (x[left], y[left]) if left.any() else (x, y)
    return Forecast(clean, tuple(stages))


class _Short:
    """Attacks with a cut budget; see ``forecast``."""

    def __init__(
        self,
        network: AttackModel,
        protocol: EvalProtocol,
        device: torch.device,
        clock: Callable[[], float],
    ) -> None:
        self.network, self.protocol, self.device, self.clock = network, protocol, device, clock

    def clean(self, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        """Which images the network gets right, and the seconds of a forward pass of all."""
        self.network.listener = None

        def attempt() -> tuple[Tensor, float]:
            with torch.no_grad(), pinned("reference"):
                self.network(x)  # the first pass of a network takes longer
                began = self.clock()
                right = (predict(self.network(x)) == y).cpu()
            return right, self.clock() - began

        return within_memory(self.network.batching, len(x), attempt, lambda: None)

    def stage(self, name: AttackName, x: Tensor, y: Tensor) -> tuple[StageCost, Tensor]:
        """What a stage is expected to take, and which of the images it does not break."""
        budget, classes = self.protocol.budget, self.network.num_classes
        _, one_calls, _, one_s = self._attack(name, x[:1], y[:1], SHORTEST)
        rows = torch.arange(max(len(x), TIMED_IMAGES)) % len(x)
        found, calls, images, seconds = self._attack(name, x[rows], y[rows], SHORT)
        with torch.no_grad(), pinned("reference"):
            left = (predict(self.network(found)) == y[rows])[: len(x)].cpu()
        call_s = one_s / one_calls
        image_s = max(0.0, (seconds - call_s * calls) / max(1, images - calls))
        survival = float(left.float().mean())
        targets = target_classes(budget, classes) if name in TARGETED else 1
        # The first of several targets is tried on all images, the others on those that are left.
        attacked = (1 + (targets - 1) * survival) / targets
        forward, _ = passes(name, budget, classes)
        fixed_s = forward * max(0.0, call_s - image_s)
        return StageCost(survival, fixed_s, forward * image_s * attacked), left

    def _attack(
        self, name: AttackName, x: Tensor, y: Tensor, cut: dict[str, int]
    ) -> tuple[Tensor, int, int, float]:
        """Adversarial images; forward passes, the images in them, and seconds."""
        budget = self.protocol.budget.model_dump()
        budget = {what: min(value, cut.get(what, 1)) for what, value in budget.items()}
        protocol = self.protocol.model_copy(update={"budget": AttackBudget(**budget)})
        calls = 0

        def called(forward: int) -> None:
            nonlocal calls
            calls += 1

        def attempt() -> tuple[Tensor, int, int, float]:
            nonlocal calls
            calls = 0
            self.network.reset()
            attack = make_attack(name, self.network, protocol, 0, self.device)
            began = self.clock()
            with own_random_state(self.device), pinned("reference"):
                found = attack.perturb(x.clone(), y.clone()).detach()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds = self.clock() - began
            inside, _ = clip_to_ball(found, x, protocol.norm, protocol.eps)
            return inside, max(1, calls), self.network.forward_images, seconds

        self.network.listener = called
        return within_memory(self.network.batching, len(x), attempt, lambda: None)
