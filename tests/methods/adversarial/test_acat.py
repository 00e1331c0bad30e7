"""acat: smoothed labels in the descent only, and the released training settings."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax

from harness.config import AveragingConfig
from harness.method import Batch, Task
from harness.registry import METHODS
from harness.training.averaging import first_epoch
from tests.methods.conftest import assert_same_loss


def plain_loss(network: nn.Module, batch: Batch, smoothing: float, weight: float) -> torch.Tensor:
    clean, adv = network(batch.x), network(batch.adversarial)
    classes = clean.shape[1]
    targets = torch.full_like(clean, smoothing / (classes - 1))
    for row, label in enumerate(batch.y.tolist()):
        targets[row, label] = 1 - smoothing
    ce = -(targets * log_softmax(clean, 1)).sum() / len(clean)
    return ce + weight * kl_div(log_softmax(adv, 1), softmax(clean, 1), reduction="batchmean")


def test_labels_are_smoothed_in_the_loss_and_not_in_the_weight_perturbation(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    task = make_task("acat", kl_weight=5.0, label_smoothing=0.1)
    for found, smoothing in (
        (task.loss(network, batch).loss, 0.1),
        (task.perturbation_loss(network, batch), 0.0),
    ):
        assert_same_loss(found, plain_loss(network, batch, smoothing, 5.0), network)


@pytest.mark.parametrize("method", ["acat", "dajat"])
@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "cifar10", "cifar100"])
def test_weights_are_averaged_over_the_last_quarter_of_any_number_of_epochs(
    method: str, dataset: str
) -> None:
    """In epoch 150 E // 200 the released average is a reference to the weights, thus no average."""
    training = METHODS.get(method).recipes[dataset]()["training"]
    averaging = AveragingConfig.model_validate(training["averaging"])
    for epochs in range(1, 401):
        assert first_epoch(averaging, epochs) == 150 * epochs // 200 + 1
