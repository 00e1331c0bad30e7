"""The record of a run: its status, its header, and the code that trained it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness import provenance
from harness.config import RunConfig
from harness.data import DATASETS, dataset_info
from harness.data.base import Dataset
from harness.distributed.group import ProcessGroup
from harness.errors import UserError
from harness.experiment.resolve import recipe_changes
from harness.method import Method
from harness.models import ARCHITECTURES
from harness.progress import Reporter
from harness.source_hash import source_sha256
from harness.store.database import Database
from harness.store.rundir import RunDirectory, utc_now

# How long a run waits for the database before it goes on without it.
INDEX_WAIT_S = 5.0
# In the place of the hash of its method's code, if a run was resumed after that had changed.
SEVERAL_VERSIONS = "several versions"


@contextmanager
def recorded(
    directory: RunDirectory,
    described: dict[str, Any],
    reporter: Reporter,
    *,
    index: bool = True,
    further: bool = False,
) -> Iterator[None]:
    """Record how the block inside ends as the run's status, in its directory and the database.

    A finished run stays finished: further evaluations have their own status, and one that fails or
    is stopped must not remove a result from the tables. Nor does a ``further`` evaluation finish a
    run, unless it is the run's own.

    Args:
        directory: the run directory.
        described: what its record says from the start.
        reporter: where a database that cannot be written is reported, at the end.
        index: whether to update the database; False if another process does.
        further: whether the block is a further evaluation of a trained run.
    """
    began_at = time.monotonic()
    finished = directory.exists and (further or directory.record["status"] == "success")
    began = {"status": "started", "started_at": utc_now(), "finished_at": None, "error": None}
    directory.update(**described, **({} if finished else began))

    def end(status: str, error: str | None = None) -> None:
        if not finished:
            before = directory.record.get("wall_s") or 0.0
            directory.end(status, wall_s=before + time.monotonic() - began_at, error=error)

    if index:
        indexed(directory)
    try:
        yield
    except KeyboardInterrupt:
        end("cancelled")
        raise
    except Exception as error:
        end("error", error=f"{type(error).__name__}: {error}")
        directory.log(traceback.format_exc())
        raise
    else:
        if further and directory.record["status"] != "success":
            finished = directory.own_evaluation() is None
        end("success")
    finally:
        directory.progress_path.unlink(missing_ok=True)
        if index:
            indexed(directory, reporter)


def indexed(directory: RunDirectory, reporter: Reporter | None = None) -> None:
    """Update the database from the run's directory, or report that this is not possible now.

    The database is derived from the run directories, so one that is damaged or locked by another
    program stops no work.
    """
    try:
        damaged = Database(directory.results, INDEX_WAIT_S).record(directory)
    except UserError as error:
        if reporter:
            reporter.line(
                f"note: {directory.run_id} is stored in {directory.path}, but not yet in the "
                f"database; the next command or `db rebuild` will add it: {error}"
            )
        return
    if reporter:
        for reason in damaged.values():
            reporter.line(f"note: left out of the database: {reason}")


def header(config: RunConfig, method: Method, passed: dict[str, Any] | None) -> dict[str, Any]:
    """The fields of a trained run's run.json that every call writes, even after training."""
    small = dataset_info(config.data.name, config.data.root).small_scale
    # A recipe with changes may be another recipe, which the run then has, however it was named.
    names = (config.recipe, *(() if small else method.recipes))
    same = (name for name in names if not recipe_changes(_by_recipe(config, name)))
    recipe = next(same, config.recipe)
    changes = recipe_changes(_by_recipe(config, recipe))
    return {
        "kind": "trained",
        "method": config.method,
        "method_title": method.card.title,
        "task": method.card.family,
        "dataset": config.data.name,
        "arch": config.model.arch,
        "recipe": recipe,
        "recipe_changes": changes,
        "scale": "small" if changes or small else "paper",
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "config_passed": passed or {},
    }


def _by_recipe(config: RunConfig, name: str) -> RunConfig:
    return config.model_copy(update={"recipe": name})


def check_registered(directory: RunDirectory) -> None:
    """Check that a run has weights, and that its dataset and architecture are registered here.

    Raises:
        UserError: the run is a loaded model, or another package or program registered one of them.
    """
    record = directory.record
    if record.get("kind") == "loaded":
        raise UserError(
            f"{directory.run_id} is the result of a model whose weights are not stored: give the "
            "model itself"
        )
    dataset, arch = str(record.get("dataset")), str(record.get("arch"))
    for kind, name, known, function in (
        ("dataset", dataset, dataset in DATASETS or dataset.startswith("folder:"), "dataset"),
        ("architecture", arch, arch in ARCHITECTURES, "model"),
    ):
        if not known:
            raise UserError(
                f"run {directory.run_id} has the {kind} {name}, which is not registered here: "
                f"install the package whose entry point harness.{function}s registers it, or call "
                f"divergence_bench.register_{function} first"
            )


def images_root(directory: RunDirectory, given: Path | None) -> Path | None:
    """The folder of a trained run's images: the given one, else the one used in training.

    Raises:
        UserError: the run's dataset or architecture is not registered here.
    """
    check_registered(directory)
    record = directory.record
    stored = ((record.get("config") or {}).get("data") or {}).get("root")
    if not stored or not Path(stored).is_dir():
        return given
    # The given folder may be the one of all other datasets, set by an environment variable.
    is_own = record["dataset"].startswith("folder:")
    other = is_own and given and not any((given / part).is_dir() for part in ("test", "val"))
    return Path(stored) if given is None or other else given


def own_protocol(directory: RunDirectory) -> dict[str, Any]:
    """The norm, radii, attacks and budget with which the run was made."""
    made = own_settings(directory)
    return {name: made[name] for name in ("norm", "eps", "attacks", "budget") if name in made}


def own_settings(directory: RunDirectory) -> dict[str, Any]:
    """The evaluation settings with which the run was made, except the images to evaluate."""
    made = (directory.record.get("config") or {}).get("evaluation", {})
    number = ("limit", "order", "half_width", "n_max")
    return {name: value for name, value in made.items() if name not in number}


def training_header(
    config: RunConfig, method: Method, data: Dataset, device: torch.device, processes: ProcessGroup
) -> dict[str, Any]:
    """The fields of run.json about the training, which a later evaluation must not overwrite."""
    return {
        "partial": config.data.train_limit is not None or not data.train.complete,
        "train_sha256": data.train.sha256,
        "test_sha256": data.test.sha256,
        "method_sha256": method_sha256(method),
        "provenance": provenance.collect(device) | {"processes": processes.count},
    }


def method_sha256(method: Method) -> str:
    """A hash of the method's code: the files of its task and parameters, and their imports."""
    return source_sha256(method.task.__module__, method.params.__module__)


def other_code(directory: RunDirectory, method: Method) -> str | None:
    """A note if the run was trained, at least in part, with other code of its method."""
    before = directory.record.get("method_sha256") if directory.exists else None
    if before in (None, method_sha256(method)):
        return None
    return (
        f"note: the code of {method.card.title} has changed since {directory.run_id} was trained, "
        "and a run's name does not depend on code: `run --fresh` trains it again and sets the old "
        "run aside"
    )
