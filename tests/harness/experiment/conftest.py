"""Fixtures shared by the tests of experiments."""

from collections.abc import Iterator

import pytest
from distilling import registered


@pytest.fixture
def _registered() -> Iterator[None]:
    """Register the small distillation methods."""
    with registered():
        yield
