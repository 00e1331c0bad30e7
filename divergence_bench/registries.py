"""Names that can be given: methods, datasets and architectures, and how to add to them."""

from __future__ import annotations

from harness.data import DATASETS
from harness.data.base import DatasetSource
from harness.errors import UserError
from harness.models import ARCHITECTURES, Architecture
from harness.registry import METHODS


def methods() -> list[str]:
    """Names of the registered methods."""
    return METHODS.names()


def datasets() -> list[str]:
    """Names of the registered datasets."""
    return DATASETS.names()


def models() -> list[str]:
    """Names of the registered architectures."""
    return ARCHITECTURES.names()


def register_dataset(name: str, source: DatasetSource) -> None:
    """Register a dataset for this process; the entry points ``harness.datasets`` are for packages.

    Args:
        name: for ``--dataset``, ``train`` and ``evaluate``; as ``source.info.name``.
        source: its description, and a function that loads a split from a root folder.

    Raises:
        UserError: the name is taken or is not that of the description.
    """
    if source.info.name != name:
        raise UserError(f"the description names the dataset {source.info.name!r}, not {name!r}")
    DATASETS.register(name, source)


def register_model(name: str, architecture: Architecture) -> None:
    """Register an architecture for this process; entry points ``harness.models`` are for packages.

    Args:
        name: for ``--arch`` and ``arch=``.
        architecture: makes a network from (num_classes, in_channels, image_size).

    Raises:
        UserError: the name is taken.
    """
    ARCHITECTURES.register(name, architecture)
