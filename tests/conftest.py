"""Run every test, and every process that it starts, on one thread; every test is seeded."""

import os

import pytest
import torch
from forking import server  # noqa: F401

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
