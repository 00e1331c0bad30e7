"""Epochs of a training as TensorBoard and Weights & Biases show them, by their own packages."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from harness.errors import UserError
from harness.store.rundir import RunDirectory

PROJECT = "divergence-bench"

Track = Callable[[Mapping[str, Any]], None]


@contextmanager
def tracking(names: Sequence[str], directory: RunDirectory) -> Iterator[Track]:
    """A function that hands an epoch's record on to the named trackers.

    They get the epochs that the run has already, then each that is trained inside the block. The
    run's own record stays the one in its directory.

    Args:
        names: ``tensorboard``, which writes event files into the run's folder, or ``wandb``, which
            goes where its own settings say (``WANDB_MODE=offline`` keeps it on this machine).
        directory: the run's, with its configuration in the record.

    Raises:
        UserError: a package is not installed.
    """
    with ExitStack() as stack:
        trackers = [stack.enter_context(TRACKERS[name](directory)) for name in names]

        def track(record: Mapping[str, Any]) -> None:
            for tracker in trackers:
                tracker(record)

        for record in directory.epochs() if names else ():
            track(record)
        yield track


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's record by name; those of ``parts`` are called ``parts/NAME``."""
    parts = {f"parts/{name}": value for name, value in record["parts"].items()}
    numbers = {**record, **parts}
    return {
        name: value
        for name, value in numbers.items()
        if isinstance(value, int | float) and name != "epoch"
    }


@contextmanager
def _tensorboard(directory: RunDirectory) -> Iterator[Track]:
    _needed("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    # Epochs that an interrupted process wrote before are written again: the old ones are hidden.
    writer = SummaryWriter(str(directory.path / "tensorboard"), purge_step=1)

    def track(record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, record["epoch"])
        writer.flush()

    try:
        yield track
    finally:
        writer.close()


@contextmanager
def _wandb(directory: RunDirectory) -> Iterator[Track]:
    run = _needed("wandb").init(
        project=PROJECT,
        id=directory.run_id,
        name=directory.run_id,
        resume="allow",
        config=directory.record.get("config"),
        dir=str(directory.path),
    )
    failed = True
    try:
        yield lambda record: run.log(scalars(record), step=record["epoch"])
        failed = False
    finally:
        run.finish(exit_code=int(failed))


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb}


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"tracking by {package} needs its package, which is not installed: "
            "pip install 'divergence-bench[tracking]', or leave --track out"
        ) from error
