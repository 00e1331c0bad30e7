"""Batches that are halved where memory is short."""

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from harness.config import EvalConfig
from harness.evaluation.speed.batching import GRAIN, Batching
from tests.harness.evaluation.conftest import evaluated

CONFIG = EvalConfig(
    eps=0.13, attacks=("apgd-ce",), chunk_size=40, limit=40, accelerate=False, budget={"n_iter": 30}
)


class Small(nn.Module):
    """Runs out of memory on more than ``most`` images."""

    def __init__(self, inner: nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.refused = inner, most, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("tried to allocate")
        return self.inner(x)


@pytest.mark.parametrize("most", [32, 5])
def test_too_little_memory_halves_the_batch_and_changes_no_verdict(most, network, digits, new_run):
    small = Small(network, most)
    found = evaluated(small, digits, new_run("small"), CONFIG).verdicts
    ample = Small(network, 40)
    expected = evaluated(ample, digits, new_run("ample"), CONFIG).verdicts
    assert small.refused
    assert not ample.refused
    # Pieces below the grain go through other matrix kernels: last bits may differ there.
    pd.testing.assert_frame_equal(found, expected, check_exact=most >= GRAIN, rtol=1e-4, atol=1e-4)


def test_too_little_memory_for_one_image_is_an_error(network, digits, new_run):
    with pytest.raises(torch.OutOfMemoryError):
        evaluated(Small(network, 0), digits, new_run("none"), CONFIG)


def test_halving_keeps_to_the_grain_until_it_is_one_grain():
    batching, limits = Batching(), []
    while batching.halve(100):
        limits.append(batching.limit)
    assert limits == [48, GRAIN, 8, 4, 2, 1]
