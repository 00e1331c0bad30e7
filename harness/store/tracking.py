"""Show the epochs of a training run in TensorBoard and Weights & Biases."""

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
    """A function that passes an epoch's record to the named trackers.

    They first get the epochs that the run already has, then each one trained inside the block. The
    record in the run's directory remains the authoritative one.

    Args:
        names: ``tensorboard``, which writes event files into the run's folder, or ``wandb``, which
            logs where its own settings say (``WANDB_MODE=offline`` keeps it on this machine).
        directory: the run's directory, with the configuration in its record.

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
    """The numbers of an epoch's record by name; those in ``parts`` are named ``parts/NAME``."""
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

    # Epochs that an interrupted process wrote are written again; the old ones are hidden.
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
            f"tracking with {package} needs its package, which is not installed: "
            "pip install 'divergence-bench[tracking]', or leave out --track"
        ) from error
