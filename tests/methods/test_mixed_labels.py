"""Labels mixed by CutMix and images changed by AutoAugment, in runs of registered methods."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from distilling import TINY, Lines, assert_same_weights, trained
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.method import Batch, Task
from tests.methods.conftest import NUM_CLASSES

MIXED = {"data.cutmix": 1.0, "data.autoaugment": True}


def mixed(batch: Batch, share: float) -> Batch:
    """The batch with its labels mixed with its labels in reverse order."""
    own, other = (one_hot(y, NUM_CLASSES).double() for y in (batch.y, batch.y.flip(0)))
    return replace(batch, soft_labels=share * own + (1 - share) * other)


@pytest.mark.parametrize("method", ["trades", "kl", "dkl", "ikl", "gkl", "dkl-ba", "acat"])
def test_the_cross_entropy_of_mixed_labels_is_that_of_both_in_their_shares(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    task = make_task(method, label_smoothing=0.0) if method == "acat" else make_task(method)
    found = task.loss(network, mixed(batch, 0.7)).parts["ce"]
    clean = network(batch.x).detach()
    expected = 0.7 * cross_entropy(clean, batch.y) + 0.3 * cross_entropy(clean, batch.y.flip(0))
    torch.testing.assert_close(found, expected)


def test_score_takes_the_distance_to_the_shares(network, batch, make_task):
    batch = mixed(batch, 0.7)
    found = make_task("score").loss(network, batch).parts["label"]
    apart = network(batch.x).softmax(1) - batch.soft_labels
    torch.testing.assert_close(found, apart.square().sum(1).mean().detach())


@pytest.mark.parametrize("method", ["ikl", "mart", "las-trades", "kd"])
def test_a_training_on_mixed_images_resumes(tmp_path, method):
    """The same batches are drawn again, and teacher logits are not read from a table."""
    options: dict[str, Any] = dict(MIXED)
    if method == "kd":
        source = trained(tmp_path / "teacher", "vanilla").model_path
        options |= {"teacher.arch": "resnet8", "teacher.source": str(source)}
        options |= {"teacher.minimum": 0.0}
    whole = trained(tmp_path / "whole", method, **options)
    plain = trained(tmp_path / "plain", method, **{**options, "data.cutmix": 0})
    assert whole.path.name != plain.path.name
    stop = Lines(stop_at="epoch 1/2")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", method, stop, **options)
    assert_same_weights(trained(tmp_path / "parts", method, **options), whole)


def test_views_are_not_mixed_with_other_images(tmp_path):
    config = resolve("dajat", options={**TINY, "data.cutmix": 0.5, "results": tmp_path})
    with pytest.raises(UserError, match=r"^dajat compares views .*set data\.cutmix=0$"):
        run(config, Lines())
