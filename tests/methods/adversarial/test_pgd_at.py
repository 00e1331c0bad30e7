"""pgd-at and at-awp: cross-entropy on adversarial images."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax

from harness.method import Batch, Task
from harness.registry import METHODS


@pytest.mark.parametrize("method", ["pgd-at", "at-awp"])
def test_loss_and_attack_are_the_label_cross_entropy(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    task = make_task(method)
    expected = -log_softmax(network(batch.adversarial), 1)[range(len(batch.y)), batch.y].mean()
    torch.testing.assert_close(task.loss(network, batch).loss, expected)
    objective = task.attack_objective(network, batch)
    assert objective is not None
    torch.testing.assert_close(objective(network(batch.adversarial)), expected)


def test_released_settings() -> None:
    for method, gamma in (("pgd-at", None), ("at-awp", 0.01)):
        recipe = METHODS.get(method).recipes["cifar10"]()
        attack = recipe["training"]["attack"]
        assert (attack["model_mode"], attack["start"]) == ("train", "uniform")
        assert (attack["steps"], attack["step_size"], attack["eps"]) == (10, 2 / 255, 8 / 255)
        assert recipe["training"].get("weight_perturbation", {}).get("gamma") == gamma


def test_selection_on_test_images_is_only_in_the_recipe_named_so() -> None:
    for name, recipe in METHODS.get("pgd-at").recipes.items():
        rule = recipe()["training"].get("selection", {}).get("rule", "last")
        assert (rule == "best-on-test") == name.endswith(("best-on-test", "table4/pgd-at"))
