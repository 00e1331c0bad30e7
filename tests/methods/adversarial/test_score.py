"""score against its formula."""

from collections.abc import Callable

import torch
from torch import nn

from harness.method import Batch, Task
from tests.methods.conftest import assert_same_loss


def test_loss_is_its_formula(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    loss = make_task("score", distance_weight=3.0).loss(network, batch).loss
    clean, adv = network(batch.x).softmax(1), network(batch.adversarial).softmax(1)
    labels = torch.eye(clean.shape[1], dtype=clean.dtype)[batch.y]
    expected = ((clean - labels) ** 2).sum(1).mean() + 3 * ((adv - clean) ** 2).sum(1).mean()
    assert_same_loss(loss, expected, network)
