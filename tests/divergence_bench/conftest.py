"""Fixtures for the command line and the Python API."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from calling import Ended

from harness.data import DATASETS
from harness.models import ARCHITECTURES
from harness.registry import METHODS
from harness.store.database import Database
from leaderboards.printed import REPORTED_CSV


@pytest.fixture(autouse=True)
def _what_a_test_registers_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registries = (METHODS, DATASETS, ARCHITECTURES)
    for registry in registries:
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield
    for registry in registries:
        registry.__dict__.pop("_targets", None)


@pytest.fixture
def refused(call: Callable[..., Ended]) -> Callable[..., str]:
    """Runs a command that ends with status 2 and returns its one error line."""

    def run(*arguments: str) -> str:
        ended = call(*arguments)
        assert (ended.status, ended.out) == (2, "")
        *before, line = ended.err.splitlines()
        assert line.startswith("error: ")
        assert not any("error" in other.lower() for other in before)
        return line

    return run


@pytest.fixture
def results(tmp_path: Path) -> str:
    """A results folder whose database holds the printed numbers."""
    Database(tmp_path).load_reported(REPORTED_CSV)
    return str(tmp_path)
