"""List methods, datasets and architectures; register datasets and architectures."""

from __future__ import annotations

from harness.data import DATASETS
from harness.data.base import DatasetSource
from harness.errors import UserError
from harness.models import ARCHITECTURES, Architecture
from harness.registry import METHODS


def methods() -> list[str]:
    """Return the names of the registered methods."""
    return METHODS.names()


def datasets() -> list[str]:
    """Return the names of the registered datasets."""
    return DATASETS.names()


def models() -> list[str]:
    """Return the names of the registered architectures."""
    return ARCHITECTURES.names()


def register_dataset(name: str, source: DatasetSource) -> None:
    """Register a dataset in this process; packages use entry points ``harness.datasets``.

    Args:
        name: for ``--dataset``, ``train`` and ``evaluate``; must equal ``source.info.name``.
        source: its description, and a function that loads a split from a root folder.

    Raises:
        UserError: the name is taken or differs from ``source.info.name``.
    """
    if source.info.name != name:
        raise UserError(f"the description names the dataset {source.info.name!r}, not {name!r}")
    DATASETS.register(name, source)


def register_model(name: str, architecture: Architecture) -> None:
    """Register an architecture in this process; packages use entry points ``harness.models``.

    Args:
        name: for ``--arch`` and ``arch=``.
        architecture: builds a network from (num_classes, in_channels, image_size).

    Raises:
        UserError: the name is taken.
    """
    ARCHITECTURES.register(name, architecture)
