"""Attack chunks in this process or a pool of processes (for Ray, see ``ray_executor``)."""

from __future__ import annotations

import linecache
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Protocol

import torch

from harness.distributed.signals import STOPPING
from harness.errors import UserError
from harness.evaluation.attack.job import Job
from harness.progress import ProgressFn, part_of
from harness.store.files import TEMPORARY_SUFFIX, replacing

PROGRESS_EVERY_S = 0.2
# Workers are forked from a process that has only imported this module, since importing torch in
# each would take seconds. That process has computed nothing, so forking breaks no thread or GPU.
WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload([__name__])
# A worker's process, its chunk, the share of it that is done, and a note on the current work.
News = tuple[int, int, float, str]


class ChunkExecutor(Protocol):
    """Attacks chunks of an evaluation and writes their files to its directory.

    Verdicts depend neither on the executor nor on the order of chunks, but their last bits may
    depend on the number of threads of the process that attacks them.
    """

    @property
    def threads(self) -> int:
        """The number of threads of each process that attacks a chunk."""

    @property
    def workers(self) -> int | None:
        """How many chunks are attacked at a time, None if unknown."""

    def attack(self, job: Job, missing: Sequence[int], progress: ProgressFn) -> None:
        """Attack the missing chunks.

        Args:
            job: the evaluation; all other chunks are finished.
            missing: the numbers of the chunks.
            progress: called with the share of these chunks that is done.

        Raises:
            UserError: the model cannot be sent to another process, or a process died.
            Exception: an attack raised it.
        """


def local_executor(workers: int, chunks: int) -> ChunkExecutor:
    """Return an executor on this machine: this process, or a pool.

    It has at most one worker per chunk and one per core. The number of workers does not depend on
    how many chunks are missing, because it determines the threads of each.
    """
    workers = min(workers, chunks, most_workers())
    return InProcess() if workers <= 1 else ProcessPool(workers)


def most_workers() -> int:
    """Return the number of cores that this process may use: more workers save no time.

    A batch system may have reserved only some of the machine's.
    """
    usable = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    return len(usable(0)) if usable else os.cpu_count() or 1


@dataclass
class InProcess:
    """Attacks chunks in this process, one after the other, with ``threads`` threads."""

    threads: int = field(default_factory=torch.get_num_threads)
    workers: int = field(default=1, init=False)

    def attack(self, job: Job, missing: Sequence[int], progress: ProgressFn) -> None:
        """See ``ChunkExecutor``."""
        with num_threads(self.threads):
            for done, number in enumerate(missing):
                job.attack(number, part_of(progress, done, 1, len(missing)))


class ProcessPool:
    """Attacks chunks in several processes on this machine, which share its threads and GPUs.

    Args:
        workers: number of processes; fewer are started if fewer chunks are missing.
    """

    def __init__(self, workers: int) -> None:
        """See the class."""
        self.workers = workers
        self.threads = max(1, torch.get_num_threads() // workers)
        # The server imports torch while this process plans, and stays for later pools.
        with _signals_blocked():
            forkserver.ensure_running()

    def attack(self, job: Job, missing: Sequence[int], progress: ProgressFn) -> None:
        """See ``ChunkExecutor``."""
        workers = min(self.workers, len(missing))
        if workers == 1:
            InProcess(self.threads).attack(job, missing, progress)
            return
        devices, news = WORKERS.SimpleQueue(), WORKERS.SimpleQueue()
        for device in worker_devices(job.device, workers):
            devices.put(str(device))
        others = set(multiprocessing.active_children())
        team: set[BaseProcess] = set()
        last_chunks: dict[int, int] = {}
        try:
            with (
                _job_file(job) as path,
                ProcessPoolExecutor(
                    workers, WORKERS, _start, (devices, news, self.threads)
                ) as pool,
            ):
                try:
                    with _signals_blocked():
                        futures = {pool.submit(_attack_chunk, path, n): n for n in missing}
                        team = set(multiprocessing.active_children()) - others
                    _follow(futures, news, last_chunks, progress)
                except BrokenProcessPool:
                    raise
                except BaseException:
                    for process in team:
                        process.kill()
                    raise
        except BrokenProcessPool as error:
            raise _death(team, last_chunks) from error


def worker_devices(device: torch.device, workers: int) -> list[torch.device]:
    """Return the device of each worker; ``cuda`` without a number cycles through visible GPUs."""
    if str(device) != "cuda":
        return [device] * workers
    return [torch.device("cuda", n % torch.cuda.device_count()) for n in range(workers)]


@contextmanager
def num_threads(threads: int) -> Iterator[None]:
    """Run the block with this number of torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _follow(
    futures: dict[Future[None], int],
    news: SimpleQueue[News],
    last_chunks: dict[int, int],
    progress: ProgressFn,
) -> None:
    """Wait for all chunks and report progress; record the last chunk of each process."""
    shares = dict.fromkeys(futures.values(), 0.0)
    running, text = set(futures), ""
    while running:
        ended, running = wait(running, PROGRESS_EVERY_S, FIRST_COMPLETED)
        while not news.empty():
            process, chunk, share, note = news.get()
            last_chunks[process], shares[chunk], text = chunk, share, note
        for future in ended:
            future.result()
            shares[futures[future]] = 1.0
        progress(sum(shares.values()) / len(shares), text)


def _death(team: set[BaseProcess], last_chunks: dict[int, int]) -> UserError:
    """Return the error that says which worker died, how, and in which chunk."""
    # When one worker dies, the pool terminates the others.
    codes = {process.pid or 0: process.exitcode or 0 for process in team}
    pid, code = min(codes.items(), key=lambda item: item[1] in (0, -signal.SIGTERM))
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    where = f"in chunk {last_chunks[pid]}" if pid in last_chunks else "before its first chunk"
    script = _unguarded_script()
    if script and pid not in last_chunks:
        remedy = (
            f"each worker imports {script}, so put what this script runs below "
            '`if __name__ == "__main__":`, or evaluate with one worker'
        )
    else:
        remedy = (
            "finished chunks are kept, repeat the command to continue (with fewer --workers if "
            "memory was short)"
        )
    return UserError(f"evaluation worker {pid} {how} {where}: {remedy}")


def _unguarded_script() -> str | None:
    """Return the script that this process runs if it has no ``__main__`` guard, else None."""
    main = sys.modules["__main__"]
    script: str | None = getattr(main, "__file__", None)
    if script is None or main.__spec__ is not None:  # interactive, or ``python -m``
        return None
    return None if "__main__" in "".join(linecache.getlines(script)) else script


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Make processes started in the block ignore Ctrl-C, which reaches all: this one ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _job_file(job: Job) -> Iterator[Path]:
    """Write the job to a file for the block; what a killed process leaves is cleaned up later."""
    path = job.directory.path / f".job{TEMPORARY_SUFFIX}"
    content = job.pickled()
    try:
        with replacing(path) as handle:
            handle.write(content)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _start(devices: SimpleQueue[str], news: SimpleQueue[News], threads: int) -> None:
    """Prepare a worker, which ends when its parent does."""
    global _device, _news
    # The pool ends its workers with SIGTERM; Ctrl-C reaches all, but only the parent handles it.
    signal.pthread_sigmask(signal.SIG_SETMASK, set(STOPPING) - {signal.SIGTERM})
    torch.set_num_threads(threads)
    _device, _news = torch.device(devices.get()), news
    if _device.type == "cuda" and _device.index is not None:
        torch.cuda.set_device(_device)
    threading.Thread(target=_end_with_parent, daemon=True).start()


_device: torch.device
_news: SimpleQueue[News]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@lru_cache(maxsize=1)
def _job(path: Path) -> Job:
    """Load this worker's job onto its device."""
    return Job.unpickled(path.read_bytes()).on(_device)


def _attack_chunk(path: Path, number: int) -> None:
    """Attack a chunk in a worker."""
    reported = 0.0

    def progress(share: float, note: str) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= PROGRESS_EVERY_S:
            reported = now
            _news.put((os.getpid(), number, share, note))

    progress(0.0, f"chunk {number}: starting")
    try:
        _job(path).attack(number, progress)
    except Exception as error:
        raise _portable(error) from None


def _portable(error: Exception) -> Exception:
    """Return the error, or one with the same text if it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's own reconstruction may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
