"""AugMix with IKL against a plain transcription, and its class means."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.method import Batch
from tests.methods.conftest import NUM_CLASSES, Recorder, assert_same_loss
from tests.methods.losses.transcriptions import pairwise_mse

PARAMS = {"wmse_weight": 5.0, "ce_weight": 3.0, "temperature": 1.7}


def plain(logits: Tensor, y: Tensor, matrix: Tensor) -> Tensor:
    clean, *views = logits.chunk(3)
    total = cross_entropy(clean, y)
    labels = clean.detach().softmax(1)
    for view in views:
        total = total + 0.5 * 5.0 * pairwise_mse(clean, view, matrix[y]).mean()
        total = total - 0.5 * 3.0 * (labels * view.log_softmax(1)).sum(1).mean()
    return total


def test_loss_is_the_plain_one(colour_network: nn.Module, colour_batch: Batch, make_task) -> None:
    """Weights are uniform in the first epoch, then the mean predictions for the class's images."""
    network, batch = colour_network, colour_batch
    task, recorder = make_task("augmix-ikl", **PARAMS), Recorder(network)
    matrix = torch.full((NUM_CLASSES, NUM_CLASSES), 1 / NUM_CLASSES).double()
    torch.manual_seed(3)
    output = task.loss(recorder, batch)
    seen = recorder.seen[-1]
    assert_same_loss(output.loss, plain(network(seen), batch.y, matrix), network)
    task.observe(batch, output)
    task.end_epoch(1)
    predictions = (network(batch.x) / 1.7).softmax(1).detach()
    for label in batch.y.unique():
        matrix[label] = predictions[batch.y == label].mean(0)
    output = task.loss(recorder, batch)
    expected = plain(network(recorder.seen[-1]), batch.y, matrix)
    assert_same_loss(output.loss, expected, network, rtol=1e-6)


def test_both_parts_train_the_views_and_the_weighted_mse_the_image(
    colour_batch: Batch, make_task
) -> None:
    batch = colour_batch
    logits = torch.randn(3 * len(batch.y), NUM_CLASSES, dtype=torch.float64, requires_grad=True)
    for weights, image_learns in (({"wmse_weight": 0.0}, False), ({"ce_weight": 0.0}, True)):
        task = make_task("augmix-ikl", **{**PARAMS, **weights})
        loss = task.loss(lambda x: logits, batch).loss
        labels = cross_entropy(logits[: len(batch.y)], batch.y)
        (gradient,) = torch.autograd.grad(loss - labels, logits)
        image, *views = gradient.chunk(3)
        assert all(bool((view.abs() > 1e-6).any()) for view in views)
        assert bool((image.abs() > 1e-9).any()) == image_learns
