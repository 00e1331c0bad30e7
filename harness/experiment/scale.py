"""A recipe at the size of another data set: what it is about stays, its size does not.

A row of a table is the recipe of its data set with a few changes. These changes are laid on the
method's recipe for the small data set, but for those that say how large the row is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.config import RunConfig, flat
from harness.experiment.resolve import resolve
from harness.registry import METHODS

# Images, networks and budget: what the small data set's recipe decides.
SIZE = (
    "data",
    "model",
    "teacher",
    "training.epochs",
    "training.batch_size",
    "training.drop_last",
    "training.batchnorm_replicas",
    "training.selection",
    "training.optimizer.lr",
    "training.optimizer.weight_decay",
)
# A radius keeps its share of the evaluation's, an epoch its share of the training.
RADII = ("training.attack.eps", "training.attack.step_size")
EPOCHS = (
    "training.weight_perturbation.start_epoch",
    "training.averaging.start_epoch",
    "training.optimizer.milestones",
    "training.optimizer.warmup_epochs",
)


@dataclass(frozen=True)
class Scaled:
    """A recipe at another size.

    Attributes:
        recipe: the recipe that gives the size.
        settings: what is laid on it, dotted path to value.
        left_out: paths of the changes that say how large the row is.
    """

    recipe: str
    settings: dict[str, Any]
    left_out: tuple[str, ...]


def at_scale(method: str, recipe: str, dataset: str) -> Scaled:
    """A method's recipe at the size of its recipe for ``dataset``.

    Raises:
        UserError: the method has no recipe of one of the names.
    """
    row, small = resolve(method, recipe=recipe), resolve(method, recipe=dataset)
    if row.data.name == dataset:
        return Scaled(recipe, {}, ())
    own = row.data.name
    usual = resolve(method, recipe=own) if own in METHODS.get(method).recipes else small
    settings: dict[str, Any] = {}
    left_out = []
    for path, value in _changes(usual, row).items():
        if any(path == size or path.startswith(f"{size}.") for size in SIZE):
            left_out.append(path)
        else:
            settings[path] = _scaled(path, value, row, small)
    return Scaled(dataset, settings, tuple(left_out))


def _changes(usual: RunConfig, row: RunConfig) -> dict[str, Any]:
    """What of its identity the row has otherwise than its data set's recipe."""
    theirs = flat(usual.identity_payload())
    absent = object()
    return {
        path: value
        for path, value in flat(row.identity_payload()).items()
        if theirs.get(path, absent) != value
    }


def _scaled(path: str, value: Any, row: RunConfig, small: RunConfig) -> Any:
    if path in RADII:
        return value * small.evaluation.eps[-1] / row.evaluation.eps[-1]
    if path in EPOCHS:
        share = small.training.epochs / row.training.epochs
        if isinstance(value, list):
            return [max(1, round(epoch * share)) for epoch in value]
        return max(1, round(value * share)) if value else value
    return value
