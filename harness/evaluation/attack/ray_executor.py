"""Attack chunks as tasks of a Ray cluster.

Chunk files come back as bytes and are written here, so no shared file system is needed. If a node
dies, Ray gives its task to another one, and the chunk is attacked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from harness.distributed.ray_cluster import Cluster, connected, finished_tasks
from harness.evaluation.attack.chunk import adversarial_path
from harness.evaluation.attack.job import Job
from harness.progress import ProgressFn, no_progress
from harness.store.files import make_folder, write_bytes_atomic


@contextmanager
def ray_executor(cluster: Cluster | None) -> Iterator[RayExecutor | None]:
    """Connect an executor to a cluster for the block; yield None for None.

    Raises:
        UserError: Ray is not installed, or the cluster does not respond.
    """
    if cluster is None:
        yield None
        return
    with connected(cluster) as ray:
        yield RayExecutor(ray, cluster)


class RayExecutor:
    """Attacks chunks as tasks; see ``ChunkExecutor``.

    Args:
        ray: the connected ``ray`` module.
        cluster: the cluster and the resources of a task.
    """

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        """See the class."""
        self._ray = ray
        self._cluster = cluster
        self.threads = cluster.cpus
        self.workers = None

    def attack(self, job: Job, missing: Sequence[int], progress: ProgressFn) -> None:
        """See ``ChunkExecutor``; Ray assigns each task its GPU."""
        device = job.device.type
        task = self._ray.remote(_attack_chunk).options(**self._cluster.options(self._ray, device))
        # Inside a list the reference itself is passed, so each process fetches the job once.
        sent = [self._ray.put(job.pickled())]
        waiting = {task.remote(sent, number, device, self.threads): number for number in missing}
        make_folder(job.directory.chunks_path)
        for done, (number, result) in enumerate(finished_tasks(self._ray, waiting), 1):
            if isinstance(result, BaseException):
                raise result
            verdicts, adversarial = result
            path = job.directory.chunk_path(number)
            if adversarial is not None:
                write_bytes_atomic(adversarial, adversarial_path(path))
            write_bytes_atomic(verdicts, path)
            if not job.is_finished(number):
                raise RuntimeError(f"chunk {number} came back from the cluster damaged")
            progress(done / len(missing), f"chunk {number} is done")


def _attack_chunk(
    sent: list[Any], number: int, device: str, threads: int
) -> tuple[bytes, bytes | None]:
    """Attack a chunk; return its file of verdicts, and of adversarial images if they are saved."""
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        path = Path(folder, "chunk.parquet")
        _job(sent[0], device).attack(number, no_progress, path)
        images = adversarial_path(path)
        return path.read_bytes(), images.read_bytes() if images.exists() else None


@lru_cache(maxsize=1)
def _job(reference: Any, device: str) -> Job:
    """Load the evaluation's job onto this process's device."""
    import ray

    job = Job.unpickled(ray.get(reference))
    return job.on(torch.device(device))
