"""How long an evaluation will take: from its attacks, cut short, on a few of its images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from harness.config import AttackBudget, AttackName, EvalProtocol
from harness.evaluation.attack.chunk import read_chunk
from harness.evaluation.attack.cost import Forecast, StageCost
from harness.evaluation.attack.job import Job
from harness.evaluation.attack.judge import predict
from harness.evaluation.attack.model import AttackModel, within_memory
from harness.evaluation.attack.stages import make_attack, passes, target_classes
from harness.evaluation.guards import own_random_state, unit_images
from harness.evaluation.speed.precision import pinned
from harness.progress import duration
from harness.seeding import seeded_generator

# So many images of an evaluation are attacked first, each attack with so much of its budget.
SAMPLE = 128
CUT = {"n_iter": 10, "n_restarts": 1, "n_queries": 150, "n_target_classes": 1}
# An evaluation that can take no longer is begun at once.
WORTHWHILE_S = 10.0


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

    The chunks that are finished tell it. Without any, the attacks run on a sample of the images,
    cut short; docs/evaluation.md has what this takes, and how far off it was.
    """
    protocol, count = job.protocol, len(job.positions)
    if finished:
        chunks = [read_chunk(job.directory.chunk_path(number)) for number in finished]
        images = sum(len(verdicts) for verdicts, _ in chunks)
        return Forecast.from_chunks(images, [facts for _, facts in chunks], protocol.attacks)
    # Not at even steps: the digits are in the order of their classes, again and again.
    generator = seeded_generator(torch.device("cpu"), protocol.seed, "forecast")
    positions = job.positions[torch.randperm(count, generator=generator)[:SAMPLE]]
    x = unit_images(job.images, positions).to(job.device)
    y = job.images.labels[positions].to(job.device)
    short, batching = _Short(job.attacked, protocol, clock), job.attacked.batching
    limit, grain = batching.limit, batching.grain

    def attempt() -> Forecast | None:
        with own_random_state(job.device), pinned("reference"):
            return short.forecast(x, y, count)

    try:
        return within_memory(batching, len(x), attempt, lambda: None)
    finally:
        # The attacks halve their batches for themselves, and record that.
        batching.limit, batching.grain = limit, grain


@dataclass(frozen=True)
class _Short:
    """The attacks, cut short, by a clock; images are ``x`` [N, K, H, W], their labels ``y`` [N]."""

    network: AttackModel
    protocol: EvalProtocol
    clock: Callable[[], float]

    def forecast(self, x: Tensor, y: Tensor, count: int) -> Forecast | None:
        """From a sample of so many images; None if attacking them all can take no time."""
        budget, classes = self.protocol.budget, self.network.num_classes
        most = sum(sum(passes(name, budget, classes)) for name in self.protocol.attacks)
        self._left(x, y)  # the first pass of a network takes longer
        began = self.clock()
        left = self._left(x, y)
        if most * (self.clock() - began) * count / len(x) < WORTHWHILE_S or not left.any():
            return None
        clean, stages = float(left.float().mean()), []
        for name in self.protocol.attacks:
            # Where all break, the later stages are tried on one image all the same.
            x, y = (x[left], y[left]) if left.any() else (x[:1], y[:1])
            cost, left = self._stage(name, x, y)
            stages.append(cost)
        return Forecast(clean, tuple(stages))

    def _stage(self, name: AttackName, x: Tensor, y: Tensor) -> tuple[StageCost, Tensor]:
        """What a stage is expected to take, and which of the images it does not break."""
        budget, classes = self.protocol.budget, self.network.num_classes
        left, pass_s = self._attack(name, x, y)
        # One that survives is attacked to the end.
        one = int(left.int().argmax())
        _, one_s = self._attack(name, x[one : one + 1], y[one : one + 1])
        image_s = max(0.0, pass_s - one_s) / max(1, len(x) - 1)
        survival, (forward, _) = float(left.float().mean()), passes(name, budget, classes)
        # Broken images leave before the next target or query; most break by the first.
        parts = {"apgd-ce": 1, "square": forward}.get(name, target_classes(budget, classes))
        attacked = (1 + (parts - 1) * survival) / parts
        cost = StageCost(survival, forward * (one_s - image_s), forward * image_s * attacked)
        return cost, left

    def _attack(self, name: AttackName, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        """Which images an attack does not break, and the seconds from one pass to the next."""
        budget = self.protocol.budget.model_dump()
        budget = {what: min(value, CUT[what]) for what, value in budget.items()}
        cut = self.protocol.model_copy(update={"budget": AttackBudget(**budget)})
        times: list[float] = []
        self.network.listener = lambda forward: times.append(self.clock())
        attack = make_attack(name, self.network, cut, 0, x.device)
        found = attack.perturb(x.clone(), y.clone()).detach()
        # In FAB, passes with and without a gradient take turns.
        pairs_s = [end - begin for begin, end in zip(times, times[2:], strict=False)]
        return self._left(found, y), median(pairs_s or [0.0]) / 2

    def _left(self, x: Tensor, y: Tensor) -> Tensor:
        """Which images the network gets right, once the device is done."""
        self.network.listener = None
        with torch.no_grad():
            return (predict(self.network(x)) == y).cpu()
