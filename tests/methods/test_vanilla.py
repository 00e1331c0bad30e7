"""Natural training."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from harness.method import Batch, Task
from harness.registry import METHODS


def test_vanilla_is_cross_entropy_without_an_attack(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    task = make_task("vanilla")
    clean_only = Batch(x=batch.x, y=batch.y, index=batch.index, epoch=1)
    expected = cross_entropy(network(batch.x), batch.y)
    torch.testing.assert_close(task.loss(network, clean_only).loss, expected)
    assert task.attack_objective(network, batch) is None
    for recipe in METHODS.get("vanilla").recipes.values():
        assert recipe()["training"].get("attack") is None
