"""Run every test on one thread, seeded, and without the data folder of whoever runs it."""

import os

import pytest
import torch
from calling import call  # noqa: F401
from forking import server  # noqa: F401

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests on real images read the variable when they are collected."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
