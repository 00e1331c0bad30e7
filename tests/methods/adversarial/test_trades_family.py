"""trades, trades-awp and kl: one task with different training settings."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from harness.method import Batch, Task
from tests.methods.conftest import assert_same_loss


@pytest.mark.parametrize(("method", "weight"), [("trades", 6.0), ("trades-awp", 6.0), ("kl", 9.0)])
def test_loss_is_its_formula(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str, weight: float
) -> None:
    output = make_task(method).loss(network, batch)
    clean, adv = network(batch.x), network(batch.adversarial)
    divergence = kl_div(log_softmax(adv, 1), softmax(clean, 1), reduction="batchmean")
    expected = cross_entropy(clean, batch.y) + weight * divergence
    assert_same_loss(output.loss, expected, network)
    total = output.parts["ce"] + weight * output.parts["kl"]
    torch.testing.assert_close(total, expected.detach())
