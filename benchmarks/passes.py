"""Record the network passes of an evaluation, and repeat them alone."""

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
from harness.evaluation.attack.job import Job
from harness.evaluation.attack.model import AttackModel
from harness.evaluation.guards import unit_images
from harness.evaluation.speed.plan import image_gradient
from harness.evaluation.speed.precision import pinned
from harness.progress import ProgressFn, no_progress

# Number of images, and whether there is a backward pass.
Pass = tuple[int, bool]


@dataclass(frozen=True)
class Cost:
    """Processor time (of all processors together) and wall time of one side, in seconds."""

    processor: float
    wall: float

    def __add__(self, other: Cost) -> Cost:
        """Add the times of two costs."""
        return Cost(self.processor + other.processor, self.wall + other.wall)


class RecordedModel(AttackModel):
    """A network under attack that records each pass."""

    def __call__(self, x: Tensor) -> Tensor:
        """See ``AttackModel``."""
        self.passes.append((len(x), torch.is_grad_enabled() and x.requires_grad))
        return super().__call__(x)

    @cached_property
    def passes(self) -> list[Pass]:
        """The recorded passes."""
        return []


class RecordedJob(Job):
    """An evaluation that saves the passes of each chunk."""

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
    """Repeats only the recorded passes of each chunk, and saves their cost."""

    def attack(self, number: int, progress: ProgressFn, path: Path | None = None) -> None:
        """Repeat the passes of a chunk; the time excludes preparing the network and the images."""
        passes: list[Pass] = json.loads(passes_path(self, number).read_text())
        images = unit_images(self.images, self.chunk(number).positions).to(self.device)
        model = bare(self)
        pieces = {size: prepared(model, images[:size]) for size, _ in passes if size}
        with pinned("reference"):
            for size in list(pieces)[:1]:  # warm-up, not timed
                replay(model.network, pieces[size], backward=True)
            with timed(self.device) as cost:
                for size, backward in passes:
                    replay(model.network, pieces.get(size, []), backward=backward)
        cost_path(self, number).write_text(json.dumps(asdict(cost())))


class Recording:
    """An executor that records the passes of each chunk, for ``cost_of_passes``.

    Args:
        inner: executor that attacks the chunks.
        kept: file in which the job is saved.
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
    """Repeat recorded passes; return their cost, with wall time as of equally busy workers."""
    job = as_kind(ReplayedJob, pickle.loads(kept.read_bytes()).on(device))
    executor.attack(job, range(job.chunks), no_progress)
    paths = [cost_path(job, number) for number in range(job.chunks)]
    costs = [Cost(**json.loads(path.read_text())) for path in paths]
    workers = min(workers, job.chunks)
    return Cost(sum(c.processor for c in costs), sum(c.wall for c in costs) / workers)


def as_kind(kind: type[Job], job: Job) -> Job:
    """Return the same job as another subclass of ``Job``."""
    return kind(**{each.name: getattr(job, each.name) for each in fields(job) if each.init})


def bare(job: Job) -> AttackModel:
    """Return the network under attack as ``Job`` builds it."""
    made: AttackModel = Job.attacked.func(job)
    return made


def passes_path(job: Job, number: int) -> Path:
    """Return the file of a chunk's passes."""
    return job.directory.path / f"passes-{number}.json"


def cost_path(job: Job, number: int) -> Path:
    """Return the file of the cost of a chunk's passes."""
    return job.directory.path / f"cost-{number}.json"


def prepared(model: AttackModel, x: Tensor) -> list[Tensor]:
    """Split images [B, K, H, W] into pieces for the network, padded and in its layout."""
    pieces = []
    for start, stop in model.batching.pieces(len(x)):
        extra = model.batching.padded(stop - start) - (stop - start)
        piece = torch.cat([x[start:stop], x[:1].expand(extra, -1, -1, -1)])
        pieces.append(piece.contiguous(memory_format=model.layout))
    return pieces


def replay(network: Callable[[Tensor], Tensor], pieces: list[Tensor], *, backward: bool) -> None:
    """Run one pass over the prepared pieces."""
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
    """Return the time of this process, its ended children and, on Linux, its live children."""
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            # Fields after the name in brackets: the child's time and that of its ended children.
            values = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, values[11:15]))
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")
