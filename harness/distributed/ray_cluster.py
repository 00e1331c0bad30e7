"""Tasks on a Ray cluster: on this machine alone, or on a cluster that is already running."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UserError

LOCAL = "local"
# Number of times a task is repeated if its process or node died.
RETRIES = 3
STOPPING_S = 60.0
ANSWERING_S = 10.0
GIB = 2**30


@dataclass(frozen=True)
class Cluster:
    """Where tasks run, and what each of them needs.

    Attributes:
        address: ``local`` for this machine alone, ``auto`` for the cluster that this machine
            belongs to, or the address of one.
        cpus: processor cores of a task, and its number of threads.
        gpus: GPUs of a task, a fraction if several tasks share one; None is one if the device is a
            GPU, else none.
        memory_gib: memory that a task reserves, in GiB.
    """

    address: str
    cpus: int = 1
    gpus: float | None = None
    memory_gib: float | None = None

    @classmethod
    def parse(cls, address: str | None, task: str | None) -> Cluster | None:
        """The cluster named on the command line, or None; ``task``: ``cpus=4,gpus=1,memory=16``.

        Raises:
            UserError: a resource has an unknown name or an invalid number, or ``task`` is given
                without a cluster.
        """
        if address is None:
            if task is not None:
                raise UserError("--task sets what a cluster's tasks need: give --cluster as well")
            return None
        kinds = {"cpus": int, "gpus": float, "memory": float}
        values: dict[str, Any] = {}
        for part in filter(None, (task or "").split(",")):
            name, _, text = part.strip().partition("=")
            try:
                values[name] = kinds[name](text)
                if values[name] < (name != "gpus") or not math.isfinite(values[name] * GIB):
                    raise ValueError
            except (KeyError, ValueError, OverflowError) as error:
                raise UserError(
                    f"--task {part.strip()!r} is invalid: write cpus=4,gpus=1,memory=16 (GiB)"
                ) from error
        return cls(address, values.get("cpus", 1), values.get("gpus"), values.get("memory"))

    def options(self, ray: Any, device: str) -> dict[str, Any]:
        """Ray's options for a task that computes on ``device``.

        If no node of a cluster is large enough yet, a warning is logged, since nodes can join.

        Args:
            ray: the module, connected.
            device: ``cpu`` or ``cuda``.

        Raises:
            UserError: this machine is smaller than a task.
        """
        gpus = self.gpus if self.gpus is not None else float(device.startswith("cuda"))
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": gpus, "max_retries": RETRIES}
        options |= {"memory": int(self.memory_gib * GIB)} if self.memory_gib else {}
        needed = {"CPU": self.cpus, "GPU": gpus, "memory": options.get("memory", 0)}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(kind, 0) >= needed[kind] for kind in needed) for node in nodes):
            return options
        largest = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in needed}
        reason = (
            f"a task needs {_resources(needed)}, but no node of the cluster has that much (at most "
            f"{_resources(largest)})"
        )
        if self.address == LOCAL:
            raise UserError(f"{reason}: lower --task, or choose another --device")
        logging.getLogger("harness").warning("%s: tasks wait until one joins", reason)
        return options


def _resources(amounts: dict[str, float]) -> str:
    """Resources in the format of ``--task``."""
    cpus, gpus, memory = amounts["CPU"], amounts["GPU"], amounts["memory"] / GIB
    return f"cpus={cpus:g},gpus={gpus:g}" + (f",memory={memory:.1f}" if memory else "")


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Connect to a cluster and yield the module ``ray``; a local cluster is started and ended.

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
    handler = signal.getsignal(signal.SIGTERM)
    start: dict[str, Any] = {"num_cpus": os.cpu_count(), "include_dashboard": False}
    try:
        _check_listening(ray, cluster.address)
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(start if cluster.address == LOCAL else {}),
        )
    except (OSError, ValueError, RuntimeError) as error:
        # The last line of Ray's message is the reason, such as a missing token.
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise UserError(
            f"no Ray cluster answers at {cluster.address!r} ({reason}): start one with `ray start "
            "--head`, or give --cluster local"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray sets a handler that ends the process at once.
        signal.signal(signal.SIGTERM, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_listening(ray: Any, address: str) -> None:
    """Raise an error unless something listens at the address: Ray itself tries for 13 minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "") or address
    if address in ("auto", LOCAL):
        return
    place = urlsplit(address if "://" in address else f"//{address}")
    if not place.hostname or not place.port:
        raise ValueError("it does not have the form host:port")
    host = place.hostname
    if host in ("localhost", "127.0.0.1", "::1"):
        # As in Ray: a cluster may listen only on the machine's external address.
        host = ray.util.get_node_ip_address()
    socket.create_connection((host, place.port), timeout=ANSWERING_S).close()


def finished_tasks(ray: Any, waiting: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each task's value in ``waiting`` with its result or exception, as the tasks finish.

    Args:
        ray: the module, connected.
        waiting: reference of a task's result to a value that identifies the task.
    """
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
                    f"a task of the cluster ended {RETRIES + 1} times without a result "
                    f"({type(error).__name__}): finished work is kept, so repeat the command (ask "
                    "for more with --task memory=GIB if memory was short)"
                )
            yield name, result
    finally:
        # Interrupted runs record that they were cancelled, and keep their checkpoints.
        for task in todo:
            ray.cancel(task)
        if todo:
            ray.wait(list(todo), num_returns=len(todo), timeout=STOPPING_S)
