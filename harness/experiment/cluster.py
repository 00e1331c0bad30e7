"""Runs and evaluation chunks as Ray tasks, on this machine or on a cluster that is up.

Whoever starts the command is the one writer: chunks come back as the bytes of their files, runs are
written to run directories on a file system that all nodes share, and only here does the database
learn of them. Where a node dies, Ray gives its task to another one: a chunk is attacked again, a
run goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import torch

from harness.config import RunConfig
from harness.errors import UserError
from harness.evaluation.attack.chunk import Attacker, ProgressFn
from harness.evaluation.attack.chunk_files import adversarial_path, finished
from harness.evaluation.attack.job import Work
from harness.evaluation.attack.workers import Elsewhere, attacked_elsewhere, packed
from harness.evaluation.guards import untouched
from harness.experiment import runner
from harness.experiment.record import indexed
from harness.experiment.sweep import Failure, Item, failed
from harness.progress import Reporter
from harness.store.files import make_folder, write_bytes_atomic
from harness.store.rundir import EvaluationDirectory, RunDirectory

LOCAL = "local"
# How often a task begins anew whose process or node died.
RETRIES = 3
STOPPING_S = 60.0
ANSWERING_S = 10.0
GIB = 2**30


@dataclass(frozen=True)
class Cluster:
    """Where tasks run, and what each of them asks for.

    Attributes:
        address: ``local`` for this machine alone, ``auto`` for the cluster that this machine
            belongs to, or the address of one.
        cpus: processor cores of a task, which has as many threads.
        gpus: GPUs of a task, a part of one where several tasks share it; None for one where the
            device is a GPU.
        memory_gib: memory that a task reserves, in GiB.
    """

    address: str
    cpus: int = 1
    gpus: float | None = None
    memory_gib: float | None = None

    @classmethod
    def asked(cls, address: str, task: str | None) -> Cluster:
        """The cluster that a command line names; ``task`` is such as ``cpus=4,gpus=1,memory=16``.

        Raises:
            UserError: a resource has another name, or is no such number.
        """
        kinds = {"cpus": int, "gpus": float, "memory": float}
        values: dict[str, Any] = {}
        for part in filter(None, (task or "").split(",")):
            name, _, text = part.strip().partition("=")
            try:
                values[name] = kinds[name](text)
                if values[name] < (name != "gpus"):
                    raise ValueError
            except (KeyError, ValueError) as error:
                raise UserError(
                    f"--task {part.strip()!r} is no resource: write cpus=4,gpus=1,memory=16 (GiB)"
                ) from error
        return cls(address, values.get("cpus", 1), values.get("gpus"), values.get("memory"))

    def options(self, device: str) -> dict[str, Any]:
        """What Ray is told of a task that computes on ``device``."""
        gpus = self.gpus if self.gpus is not None else float(device.startswith("cuda"))
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": gpus, "max_retries": RETRIES}
        return options | ({"memory": int(self.memory_gib * GIB)} if self.memory_gib else {})


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """The module ``ray``, connected; a local one is started and ended.

    Raises:
        UserError: Ray is not installed, or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--cluster needs Ray, which is not installed: pip install 'divergence-bench[cluster]'"
        ) from error
    heeded = signal.getsignal(signal.SIGTERM)
    start: dict[str, Any] = {"num_cpus": os.cpu_count(), "include_dashboard": False}
    try:
        _knock(ray, cluster.address)
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(start if cluster.address == LOCAL else {}),
        )
    except (OSError, ValueError, RuntimeError) as error:
        # Ray's own words end with the reason, such as a token that is missing.
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise UserError(
            f"no Ray cluster answers at {cluster.address!r} ({reason}): start one with `ray start "
            "--head`, or give --cluster local"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray ends the process at a SIGTERM; here a signal ends work in order.
        signal.signal(signal.SIGTERM, heeded)
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(ray: Any, address: str) -> None:
    """Raise an error unless something listens at the address: Ray itself tries for 13 minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "") or address
    if address in ("auto", LOCAL):
        return
    place = urlsplit(address if "://" in address else f"//{address}")
    if not place.hostname or not place.port:
        raise ValueError("it has not the form host:port")
    host = place.hostname
    if host in ("localhost", "127.0.0.1", "::1"):
        # As Ray reads it: a cluster may listen on the machine's outer address alone.
        host = ray.util.get_node_ip_address()
    socket.create_connection((host, place.port), timeout=ANSWERING_S).close()


@contextmanager
def chunks_on(cluster: Cluster | None) -> Iterator[None]:
    """Within, the chunks of evaluations are tasks of the cluster; None leaves them here."""
    if cluster is None:
        yield
        return
    with connected(cluster) as ray:
        there = Elsewhere(partial(attack_chunks, ray, cluster), cluster.cpus)
        with attacked_elsewhere(there):
            yield


def attack_chunks(
    ray: Any,
    cluster: Cluster,
    work: Work,
    missing: Sequence[int],
    device: torch.device,
    say: ProgressFn,
) -> None:
    """Attack the missing chunks as tasks, and write down each as it comes back.

    Args:
        ray: the module, connected.
        cluster: what a task asks for.
        work: the evaluation.
        missing: chunks to attack.
        device: where a task computes; which GPU is Ray's to say.
        say: is told the share of the whole evaluation that is done.

    Raises:
        UserError: the model cannot be sent, or a task died more than ``RETRIES`` times.
        Exception: what a task raised.
    """
    task = ray.remote(_attacked_chunk).options(**cluster.options(device.type))
    # In a list the reference is handed on as it is: each process fetches the work once.
    sent = [ray.put(packed(work))]
    waiting = {task.remote(sent, number, device.type, cluster.cpus): number for number in missing}
    make_folder(work.directory.chunks_path)
    for done, (number, result) in enumerate(_as_finished(ray, waiting), 1):
        if isinstance(result, BaseException):
            raise result
        verdicts, adversarial = result
        path = work.directory.chunk_path(number)
        if adversarial is not None:
            write_bytes_atomic(adversarial, adversarial_path(path))
        write_bytes_atomic(verdicts, path)
        if not finished(path, work.expected(number)):
            raise RuntimeError(f"chunk {number} came back from the cluster damaged")
        say((work.chunks - len(missing) + done) / work.chunks, f"chunk {number} is done")


def run_missing_on(
    cluster: Cluster,
    items: Sequence[Item],
    reporter: Reporter,
    passed: dict[str, Any] | None = None,
) -> list[Failure]:
    """Run what of a sweep is not done, each run as a task; one that fails is recorded.

    All nodes must see the results folder and the data under the same paths.

    Args:
        cluster: where, and what a run asks for.
        items: the plan.
        reporter: where progress is shown.
        passed: what the user typed, kept in each run's record.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    missing = [item for item in items if item.state != "done"]
    failures = []
    with connected(cluster) as ray:
        waiting = {}
        for item in missing:
            config = _absolute(item.config)
            device = "cuda" if config.device == "auto" and _has_gpus(ray) else config.device
            task = ray.remote(_finished_run).options(**cluster.options(device))
            waiting[task.remote(config, passed, cluster.cpus)] = item
        try:
            for done, (item, result) in enumerate(_as_finished(ray, waiting), 1):
                _index(item.config)
                told = f"[{done}/{len(missing)}] {', '.join(item.names)}: {item.config.run_id}"
                reporter.line(told)
                if isinstance(result, Exception):
                    failures.append(failed(item.config, result, reporter))
        except BaseException:
            # Those that were stopped have said so in their directories.
            for item in missing:
                _index(item.config)
            raise
    return failures


def _as_finished(ray: Any, waiting: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """What each task was for, with what it gave or the exception that it ended with."""
    todo = dict(waiting)
    try:
        while todo:
            (ended,), _ = ray.wait(list(todo), num_returns=1)
            name = todo.pop(ended)
            try:
                result = ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                result = error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                result = UserError(
                    f"a task of the cluster ended {RETRIES + 1} times without an answer "
                    f"({type(error).__name__}): what is finished is kept, repeat the command (ask "
                    "for more by --task memory=GIB if memory was short)"
                )
            yield name, result
    finally:
        # Interrupted runs write down that they are cancelled, and keep their checkpoints.
        for task in todo:
            ray.cancel(task)
        if todo:
            ray.wait(list(todo), num_returns=len(todo), timeout=STOPPING_S)


def _attacked_chunk(
    sent: list[Any], number: int, device: str, threads: int
) -> tuple[bytes, bytes | None]:
    """A chunk's file of verdicts, and that of its adversarial images if they are kept."""
    torch.set_num_threads(threads)
    work, attacker = _received(sent[0], device)
    with TemporaryDirectory() as folder, untouched(work.model):
        run = RunDirectory(Path(folder), "chunk")
        here = replace(work, directory=EvaluationDirectory(run, work.directory.evaluation_id))
        here.attack(number, attacker, lambda share, note: None)
        path = here.directory.chunk_path(number)
        images = adversarial_path(path)
        return path.read_bytes(), images.read_bytes() if images.exists() else None


@lru_cache(maxsize=1)
def _received(reference: Any, device: str) -> tuple[Work, Attacker]:
    """The work of an evaluation in this process, on its device."""
    import ray

    work: Work = pickle.loads(ray.get(reference))
    work.model.to(device)
    return work, work.attacker(torch.device(device))


def _finished_run(config: RunConfig, passed: dict[str, Any] | None, threads: int) -> str:
    torch.set_num_threads(threads)
    return runner.run(config, Reporter(quiet=True), passed, wait=True, index=False).run_id


def _absolute(config: RunConfig) -> RunConfig:
    """The configuration with paths that do not depend on where a process was started."""
    paths = {"root": config.data.root, "generated": config.data.generated}
    found = {name: path.absolute() for name, path in paths.items() if path is not None}
    data = config.data.model_copy(update=found)
    return config.model_copy(update={"results": config.results.absolute(), "data": data})


def _has_gpus(ray: Any) -> bool:
    return bool(ray.cluster_resources().get("GPU"))


def _index(config: RunConfig) -> None:
    """Bring the database to what the run's directory, and its teacher's, hold."""
    teacher = config.teacher
    first = teacher.weights if teacher and teacher.source == "auto" else None
    for run_id in filter(None, (first, config.run_id)):
        directory = RunDirectory(config.results, run_id)
        if directory.exists:
            indexed(directory)
