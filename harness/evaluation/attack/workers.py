"""Processes that share an evaluation's chunks; chunk files on disk are what they hand over.

The parent gives each worker one chunk at a time over a pipe of its own: no lock is shared, so that
a worker that is killed holds up nobody, and one whose parent is killed ends at its next word.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from harness.distributed.signals import STOPPING
from harness.errors import UserError
from harness.evaluation.attack.chunk import ProgressFn
from harness.evaluation.attack.job import Work
from harness.evaluation.guards import untouched
from harness.store.files import TEMPORARY_SUFFIX, replacing

TELL_EVERY_S = 0.2


@dataclass(frozen=True)
class Elsewhere:
    """What attacks chunks in place of this process and its workers.

    Attributes:
        attack: finishes the missing chunks of an evaluation on a device, as ``attack_in_workers``.
        threads: of each process that attacks a chunk.
    """

    attack: Callable[[Work, list[int], torch.device, ProgressFn], None]
    threads: int


_elsewhere: ContextVar[Elsewhere | None] = ContextVar("elsewhere", default=None)


@contextmanager
def attacked_elsewhere(where: Elsewhere) -> Iterator[None]:
    """Within, every evaluation has its chunks attacked there, whatever its workers."""
    before = _elsewhere.set(where)
    try:
        yield
    finally:
        _elsewhere.reset(before)


def elsewhere() -> Elsewhere | None:
    """What attacks chunks in place of this process and its workers, if anything does."""
    return _elsewhere.get()


def threads_each(workers: int) -> int:
    """The threads of each of so many workers, or of each process elsewhere if chunks go there."""
    away = _elsewhere.get()
    return away.threads if away else max(1, torch.get_num_threads() // workers)


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Within, this process computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Worker:
    """A worker as its parent sees it."""

    number: int
    process: BaseProcess
    connection: Connection
    chunk: int | None = None
    share: float = 0.0


def attack_in_workers(
    work: Work, missing: list[int], device: torch.device, workers: int, say: ProgressFn
) -> None:
    """Attack the missing chunks in so many processes.

    Args:
        work: the evaluation.
        missing: chunks to attack.
        device: where to compute; ``cuda`` without a number is every visible GPU in turn.
        workers: of the whole evaluation; at most one a missing chunk is started.
        say: is told the share of the whole evaluation that is done.

    Raises:
        UserError: the model cannot be given to another process, or a worker died.
        Exception: what a worker raised.
    """
    todo = list(missing)
    finished = work.chunks - len(todo)
    started = min(workers, len(todo))
    with (
        _work_file(work) as path,
        _started(path, device, started, threads_each(workers)) as team,
    ):
        at_work = list(team)
        while at_work:
            heard = wait([worker.connection for worker in at_work])
            for worker in [each for each in at_work if each.connection in heard]:
                kind, value = _heard(worker)
                if kind == "failed":
                    raise value
                if kind == "left":
                    at_work.remove(worker)
                elif kind == "at":
                    worker.share, note = value
                    running = sum(each.share for each in team)
                    say((finished + running) / work.chunks, f"{note}, chunk {worker.chunk}")
                else:
                    finished += worker.chunk is not None
                    worker.share, worker.chunk = 0.0, todo.pop(0) if todo else None
                    _give(worker)


def worker_devices(device: torch.device, workers: int) -> list[torch.device]:
    """The device of each worker."""
    if str(device) != "cuda":
        return [device] * workers
    return [torch.device("cuda", n % torch.cuda.device_count()) for n in range(workers)]


def _give(worker: Worker) -> None:
    try:
        worker.connection.send(worker.chunk)
    except OSError as error:
        raise _death(worker) from error


def _heard(worker: Worker) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = worker.connection.recv()
    except (EOFError, OSError) as error:
        raise _death(worker) from error
    return message


def _death(worker: Worker) -> UserError:
    worker.process.join(5)
    code = worker.process.exitcode
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
    what = "before its first chunk" if worker.chunk is None else f"in chunk {worker.chunk}"
    return UserError(
        f"evaluation worker {worker.number} {how} {what}: finished chunks are kept, repeat the "
        "command to go on (with fewer --workers if memory was short)"
    )


def packed(work: Work) -> bytes:
    """The work as another process can take it, its model on the CPU.

    Raises:
        UserError: the model cannot be sent.
    """
    portable = replace(work, model=deepcopy(work.model).cpu())
    try:
        return pickle.dumps(portable)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"the model cannot be given to another process ({error}): evaluate with --workers 1, "
            "and not on a cluster"
        ) from error


@contextmanager
def _work_file(work: Work) -> Iterator[Path]:
    """The work in a file; what a killed parent leaves of it goes with other leftovers."""
    path = work.directory.path / f".work{TEMPORARY_SUFFIX}"
    content = packed(work)
    try:
        with replacing(path) as handle:
            handle.write(content)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _started(
    path: Path, device: torch.device, workers: int, threads: int
) -> Iterator[list[Worker]]:
    """Workers, which are gone when the block ends, however it ends."""
    context = multiprocessing.get_context("spawn")
    team: list[Worker] = []
    try:
        for number, where in enumerate(worker_devices(device, workers)):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(path, where, threads, theirs), daemon=True
            )
            # A signal may reach the whole group: the parent alone answers it, and stops the others.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            try:
                process.start()
                team.append(Worker(number, process, ours))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        yield team
    finally:
        for worker in team:
            worker.process.kill()
        for worker in team:
            worker.process.join()
            worker.connection.close()


def _serve(path: Path, device: torch.device, threads: int, connection: Connection) -> None:
    """A worker's life: chunks until there are no more."""
    torch.set_num_threads(threads)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    try:
        work: Work = pickle.loads(path.read_bytes())
        with untouched(work.model.to(device)):
            attacker = work.attacker(device)
            connection.send(("ready", None))
            while (number := connection.recv()) is not None:
                work.attack(number, attacker, _Telling(connection))
                connection.send(("ready", None))
        connection.send(("left", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except BaseException as error:
        connection.send(("failed", _portable(error)))


class _Telling:
    """Tells the parent of progress, not too often."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = 0.0

    def __call__(self, share: float, note: str) -> None:
        now = time.monotonic()
        if now - self._last >= TELL_EVERY_S:
            self._last = now
            self._connection.send(("at", (share, note)))


def _portable(error: BaseException) -> BaseException:
    """The error, or one that says the same and can be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's own reconstruction may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
