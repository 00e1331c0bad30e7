"""Estimate how long an evaluation takes by running shortened attacks on a sample of its images."""

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
from harness.store.text import counted

# Sample size, and the reduced budget of each attack.
SAMPLE = 128
CUT = {"n_iter": 10, "n_restarts": 1, "n_queries": 150, "n_target_classes": 1}
# Shorter evaluations start without an estimate.
WORTHWHILE_S = 10.0


def expected(job: Job, workers: int | None) -> str | None:
    """Set the job's forecast and return a message with the time its attacks need, None if unknown.

    Args:
        job: the evaluation; some of its chunks may be finished.
        workers: how many chunks are attacked at a time, None if unknown.
    """
    missing = job.missing(range(job.chunks))
    if not missing or not job.protocol.attacks or workers is None:
        return None
    finished = sorted(set(range(job.chunks)) - set(missing))
    job.forecast = forecast(job, finished)
    # ``until_decided`` extends both evaluations chunk by chunk: only the first call estimates.
    if job.forecast is None or (finished and job.protocol.order == "random"):
        return None
    sizes = [len(job.chunk(number).rows) for number in missing]
    seconds = duration(job.forecast.wall_s(sizes, workers))
    most = "at most " if job.protocol.half_width is not None else ""
    return f"{most}about {seconds} to attack {counted(sum(sizes), 'image')}"


def forecast(
    job: Job, finished: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> Forecast | None:
    """Forecast the seconds that a job's chunks take here; None if an estimate is not worthwhile.

    It is based on the finished chunks. Without any, shortened attacks run on a sample of the
    images; docs/evaluation.md gives the cost and the accuracy of this estimate.
    """
    protocol, count = job.protocol, len(job.positions)
    if finished:
        chunks = [read_chunk(job.directory.chunk_path(number)) for number in finished]
        images = sum(len(verdicts) for verdicts, _ in chunks)
        return Forecast.from_chunks(images, [facts for _, facts in chunks], protocol.attacks)
    # Not at even steps: the classes of the digits follow one another in a repeating order.
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
        # The attacks themselves halve their batches where needed, and record it.
        batching.limit, batching.grain = limit, grain


@dataclass(frozen=True)
class _Short:
    """Timed, shortened attacks on images ``x`` [N, K, H, W] with labels ``y`` [N]."""

    network: AttackModel
    protocol: EvalProtocol
    clock: Callable[[], float]

    def forecast(self, x: Tensor, y: Tensor, count: int) -> Forecast | None:
        """Forecast an evaluation of ``count`` images; None if it is short or all are wrong."""
        budget, classes = self.protocol.budget, self.network.num_classes
        most = sum(sum(passes(name, budget, classes)) for name in self.protocol.attacks)
        self._left(x, y)  # the first pass of a network is slower
        began = self.clock()
        left = self._left(x, y)
        if most * (self.clock() - began) * count / len(x) < WORTHWHILE_S or not left.any():
            return None
        clean, stages = float(left.float().mean()), []
        for name in self.protocol.attacks:
            # If all images break, the later stages are still timed on one image.
            x, y = (x[left], y[left]) if left.any() else (x[:1], y[:1])
            cost, left = self._stage(name, x, y)
            stages.append(cost)
        return Forecast(clean, tuple(stages))

    def _stage(self, name: AttackName, x: Tensor, y: Tensor) -> tuple[StageCost, Tensor]:
        """Return a stage's expected cost, and which of the images it does not break."""
        budget, classes = self.protocol.budget, self.network.num_classes
        left, pass_s = self._attack(name, x, y)
        # A surviving image is attacked to the end.
        one = int(left.int().argmax())
        _, one_s = self._attack(name, x[one : one + 1], y[one : one + 1])
        image_s = max(0.0, pass_s - one_s) / max(1, len(x) - 1)
        survival, (forward, _) = float(left.float().mean()), passes(name, budget, classes)
        # Broken images drop out before the next target or query; most break at the first.
        parts = {"apgd-ce": 1, "square": forward}.get(name, target_classes(budget, classes))
        attacked = (1 + (parts - 1) * survival) / parts
        cost = StageCost(survival, forward * (one_s - image_s), forward * image_s * attacked)
        return cost, left

    def _attack(self, name: AttackName, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
        """Return which images an attack does not break, and the seconds between two passes."""
        budget = self.protocol.budget.model_dump()
        budget = {what: min(value, CUT[what]) for what, value in budget.items()}
        cut = self.protocol.model_copy(update={"budget": AttackBudget(**budget)})
        times: list[float] = []
        self.network.listener = lambda forward: times.append(self.clock())
        attack = make_attack(name, self.network, cut, 0, x.device)
        found = attack.perturb(x.clone(), y.clone()).detach()
        # In FAB, passes with and without a gradient alternate.
        pairs_s = [end - begin for begin, end in zip(times, times[2:], strict=False)]
        return self._left(found, y), median(pairs_s or [0.0]) / 2

    def _left(self, x: Tensor, y: Tensor) -> Tensor:
        """Return which images the network classifies correctly; waits for the device."""
        self.network.listener = None
        with torch.no_grad():
            return (predict(self.network(x)) == y).cpu()
