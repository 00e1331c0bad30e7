"""Seconds and memory of training steps, measured without stalling the device."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import scipy
import torch

Events = tuple[torch.cuda.Event, torch.cuda.Event]


class StepTimer:
    """Times repeated steps.

    On CUDA, a step is timed by two events on the current stream, which are read later so that no
    step waits for the device. On other devices, wall-clock time is used.

    Args:
        device: where the steps are computed.
        warmup: number of first steps (also after each ``load_state``) that do not count, unless
            there are no others.
    """

    def __init__(self, device: torch.device, warmup: int = 5) -> None:
        """See the class."""
        self._cuda = device.type == "cuda"
        self._warmup = warmup
        self._seen = 0
        self._early: list[float] = []
        self._restored = 0
        self._seconds: list[float] = []
        self._pending: list[tuple[bool, Events]] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time one step; one that raises is not counted."""
        if self._cuda:
            start = torch.cuda.Event(enable_timing=True)
            stop = torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            stop.record()
            self._pending.append((self._warm(), (start, stop)))
            self._collect(wait=False)
        else:
            began = time.perf_counter()
            yield
            self._add(self._warm(), time.perf_counter() - began)

    def median(self, last: int | None = None) -> float:
        """Median seconds of all steps, or of this process's ``last`` ones; NaN if none."""
        values = self._values()
        if last is not None:
            values = (self._seconds[self._restored :] or self._early)[-last:]
        return statistics.median(values) if values else float("nan")

    def summary(self) -> dict[str, float]:
        """The median, the number of steps and, from six steps on, a 95% confidence interval.

        The bounds are order statistics chosen by the binomial distribution with p = 1/2, so the
        interval assumes nothing about the distribution of the times.
        """
        values = sorted(self._values())
        summary: dict[str, float] = {"value": self.median(), "n": len(values)}
        rank = int(scipy.stats.binom.ppf(0.025, len(values), 0.5)) if values else 0
        if rank:
            summary |= {"low": values[rank - 1], "high": values[-rank]}
        return summary

    def state(self) -> list[float]:
        """The seconds that count, for a checkpoint."""
        return list(self._values())

    def load_state(self, seconds: list[float]) -> None:
        """Restore the seconds from a checkpoint; the warm-up starts again."""
        self._values()
        self._seconds, self._early, self._seen = list(seconds), [], 0
        self._restored = len(seconds)

    def _warm(self) -> bool:
        self._seen += 1
        return self._seen > self._warmup

    def _add(self, warm: bool, seconds: float) -> None:
        (self._seconds if warm else self._early).append(seconds)

    def _collect(self, wait: bool) -> None:
        while self._pending:
            warm, (start, stop) = self._pending[0]
            if wait:
                stop.synchronize()
            elif not stop.query():
                return
            self._add(warm, start.elapsed_time(stop) / 1000)
            self._pending.pop(0)

    def _values(self) -> list[float]:
        self._collect(wait=True)
        return self._seconds or self._early


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: on a GPU since its statistics were reset, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
