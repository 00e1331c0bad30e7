"""Every test, and every process that one starts, runs on one thread from a fixed seed."""

import os

import pytest
import torch
from forking import server  # noqa: F401

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
