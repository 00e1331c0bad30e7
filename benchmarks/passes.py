"""The passes that an evaluation asks its network for: written down, and repeated alone."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from harness.evaluation.attack.executors import ChunkExecutor
from harness.evaluation.attack.job import Job, ProgressFn, no_progress
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.guards import unit_images
from harness.evaluation.speed.plan import image_gradient
from harness.evaluation.speed.precision import pinned

# How many images, and whether they go backward as well.
Pass = tuple[int, bool]


@dataclass(frozen=True)
class Cost:
    """Time of one side in seconds: of all its processors together, and by the clock."""

    processor: float
    wall: float

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(self.processor + other.processor, self.wall + other.wall)


class RecordedModel(AttackModel):
    """A network under attack that notes each pass."""

    def __call__(self, x: Tensor) -> Tensor:
        """See ``AttackModel``."""
        self.passes.append((len(x), torch.is_grad_enabled() and x.requires_grad))
        return super().__call__(x)

    @cached_property
    def passes(self) -> list[Pass]:
        """How many images, and whether backward as well."""
        return []


class RecordedJob(Job):
    """An evaluation that writes down the passes of each chunk."""

    @cached_property
    def attacked(self) -> AttackModel:
        """See ``Job``."""
        made = bare(self)
        return RecordedModel(
            made.network, made.num_classes, made.batching, made.layout, made.autocast
        )

    def attack(self, number: int, progress: ProgressFn, path: Path | None = None) -> None:
        """See ``Job``."""
        assert isinstance(self.attacked, RecordedModel)
        self.attacked.passes.clear()
        super().attack(number, progress, path)
        passes_path(self, number).write_text(json.dumps(self.attacked.passes))


class ReplayedJob(Job):
    """The recorded passes of each chunk and nothing else, with what they cost."""

    def attack(self, number: int, progress: ProgressFn, path: Path | None = None) -> None:
        """Repeat the passes of a chunk; the network is prepared and the images lie ready before."""
        passes: list[Pass] = json.loads(passes_path(self, number).read_text())
        images = unit_images(self.images, self.chunk(number).positions).to(self.device)
        model = bare(self)
        pieces = {size: prepared(model, images[:size]) for size, _ in passes if size}
        with pinned("reference"):
            for size in list(pieces)[:1]:  # not charged with what a first pass prepares
                replay(model.network, pieces[size], backward=True)
            with timed(self.device) as cost:
                for size, backward in passes:
                    replay(model.network, pieces.get(size, []), backward=backward)
        cost_path(self, number).write_text(json.dumps(asdict(cost())))


class Recording:
    """An executor that writes down the passes of each chunk, for ``cost_of_passes``.

    Args:
        inner: where chunks are attacked.
        kept: file for the job.
    """

    def __init__(self, inner: ChunkExecutor, kept: Path) -> None:
        """See the class."""
        self._inner, self._kept = inner, kept
        self.threads, self.workers = inner.threads, inner.workers

    def attack(self, job: Job, missing: Sequence[int], progress: ProgressFn) -> None:
        """See ``ChunkExecutor``."""
        recorded = as_kind(RecordedJob, job)
        self._kept.write_bytes(recorded.pickled())
        self._inner.attack(recorded, missing, progress)


def cost_of_passes(kept: Path, executor: ChunkExecutor, device: torch.device, workers: int) -> Cost:
    """What the passes cost that ``Recording`` wrote down; by the clock, of equally busy workers."""
    job = as_kind(ReplayedJob, pickle.loads(kept.read_bytes()).on(device))
    executor.attack(job, range(job.chunks), no_progress)
    paths = [cost_path(job, number) for number in range(job.chunks)]
    costs = [Cost(**json.loads(path.read_text())) for path in paths]
    workers = min(workers, job.chunks)
    return Cost(sum(c.processor for c in costs), sum(c.wall for c in costs) / workers)


def as_kind(kind: type[Job], job: Job) -> Job:
    """The same job of another kind."""
    return kind(**{each.name: getattr(job, each.name) for each in fields(job) if each.init})


def bare(job: Job) -> AttackModel:
    """The network under attack as ``Job`` makes it."""
    made: AttackModel = Job.attacked.func(job)
    return made


def passes_path(job: Job, number: int) -> Path:
    """Where the passes of a chunk are written down."""
    return job.directory.path / f"passes-{number}.json"


def cost_path(job: Job, number: int) -> Path:
    """Where the cost of a chunk's passes is written down."""
    return job.directory.path / f"cost-{number}.json"


def prepared(model: AttackModel, x: Tensor) -> list[Tensor]:
    """What the network gets of images [B, K, H, W]: pieces, padded and in its layout."""
    pieces = []
    for start, stop in model.batching.pieces(len(x)):
        extra = model.batching.padded(stop - start) - (stop - start)
        piece = torch.cat([x[start:stop], x[:1].expand(extra, -1, -1, -1)])
        pieces.append(piece.contiguous(memory_format=model.layout))
    return pieces


def replay(network: Callable[[Tensor], Tensor], pieces: list[Tensor], *, backward: bool) -> None:
    """One pass of the prepared pieces."""
    for piece in pieces:
        with torch.set_grad_enabled(backward):
            leaf = piece.detach().requires_grad_(backward)
            logits = network(leaf)
        if backward:
            image_gradient(logits, leaf, torch.ones_like(logits))


@contextmanager
def timed(device: torch.device) -> Iterator[Callable[[], Cost]]:
    """Time the block in this process; the cost is known after it."""
    began = time.process_time(), time.perf_counter()
    ended: list[float] = []
    yield lambda: Cost(ended[0] - began[0], ended[1] - began[1])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    ended += [time.process_time(), time.perf_counter()]


def all_processor_seconds() -> float:
    """Of this process from its start, of its children that ended, and on Linux of those alive."""
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            # After the name in brackets, its time and that of its children that ended.
            values = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, values[11:15]))
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")
