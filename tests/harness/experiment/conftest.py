"""What the tests of experiments share."""

from collections.abc import Iterator

import pytest
from distilling import registered


@pytest.fixture
def _registered() -> Iterator[None]:
    """The small distillation methods are registered."""
    with registered():
        yield
