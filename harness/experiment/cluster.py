"""The runs of a sweep as Ray tasks, on this machine or on a running cluster.

Runs are written to run directories on a file system that all nodes share; only the process that
started the command writes the database. If a node dies, Ray moves its task to another node, where
the run continues from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.config import RunConfig
from harness.distributed.ray_cluster import Cluster, connected, finished_tasks
from harness.experiment import runner
from harness.experiment.record import indexed
from harness.experiment.sweep import Failure, Item, failed
from harness.progress import Reporter
from harness.store.rundir import RunDirectory


def run_missing_on(
    cluster: Cluster,
    items: Sequence[Item],
    reporter: Reporter,
    passed: dict[str, Any] | None = None,
) -> list[Failure]:
    """Execute the missing runs of a sweep, each as a task; failures are recorded.

    All nodes must see the results folder and the data under the same paths.

    Args:
        cluster: the cluster, and the resources that a run needs.
        items: the plan.
        reporter: where progress is shown.
        passed: what the user typed, kept in each run's record.

    Raises:
        UserError: Ray is not installed, or no cluster responds.
    """
    missing = [item for item in items if item.state != "done"]
    failures = []
    with connected(cluster) as ray:
        waiting = {}
        for item in missing:
            config = _absolute(item.config)
            device = "cuda" if config.device == "auto" and _has_gpus(ray) else config.device
            task = ray.remote(_run).options(**cluster.options(ray, device))
            waiting[task.remote(config, passed, cluster.cpus)] = item
        try:
            for done, (item, result) in enumerate(finished_tasks(ray, waiting), 1):
                _index(item.config, reporter)
                names = ", ".join(item.names)
                reporter.line(f"[{done}/{len(missing)}] {names}: {item.config.run_id}")
                if isinstance(result, Exception):
                    failures.append(failed(item.config, result, reporter))
        except BaseException:
            # The directories of runs that were stopped have a new status.
            for item in missing:
                _index(item.config, reporter)
            raise
    return failures


def _run(config: RunConfig, passed: dict[str, Any] | None, threads: int) -> str:
    torch.set_num_threads(threads)
    return runner.run(config, Reporter(quiet=True), passed, wait=True, index=False).run_id


def _absolute(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths."""
    paths = {"root": config.data.root, "generated": config.data.generated}
    found = {name: path.absolute() for name, path in paths.items() if path is not None}
    data = config.data.model_copy(update=found)
    return config.model_copy(update={"results": config.results.absolute(), "data": data})


def _has_gpus(ray: Any) -> bool:
    return bool(ray.cluster_resources().get("GPU"))


def _index(config: RunConfig, reporter: Reporter) -> None:
    """Index the directories of a run and of its teacher."""
    teacher = config.teacher
    first = teacher.weights if teacher and teacher.source == "auto" else None
    for run_id in filter(None, (first, config.run_id)):
        directory = RunDirectory(config.results, run_id)
        if directory.exists:
            indexed(directory, reporter)
