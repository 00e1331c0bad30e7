"""AugMix: its loss against a plain transcription, and its views against torchvision's."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.compat import import_torchvision
from harness.experiment.resolve import resolve
from harness.method import Batch
from methods.augmix import augmixed
from tests.methods.conftest import Recorder, assert_same_loss


def divergence(predictions: list[Tensor]) -> Tensor:
    """The mean KL divergence from the mean prediction."""
    mean = sum(predictions) / len(predictions)
    terms = [(p * (p.log() - mean.log())).sum() / len(p) for p in predictions]
    return sum(terms) / len(terms)


def test_loss_is_the_plain_one(colour_network: nn.Module, colour_batch: Batch, make_task) -> None:
    """It covers the image and two mixtures of it, in one pass through the network."""
    network, batch = colour_network, colour_batch
    recorder = Recorder(network)
    task = make_task("augmix", js_weight=5.0)
    torch.manual_seed(3)
    loss = task.loss(recorder, batch).loss
    (seen,) = recorder.seen
    logits = network(seen).chunk(3)
    assert torch.equal(seen[: len(batch.x)], batch.x)
    predictions = [each.softmax(1) for each in logits]
    expected = cross_entropy(logits[0], batch.y) + 5.0 * divergence(predictions)
    assert_same_loss(loss, expected, network)


@pytest.mark.parametrize("method", ["augmix", "augmix-ikl"])
def test_the_loss_sees_two_views_of_the_configured_mixtures(
    method: str, colour_network: nn.Module, colour_batch: Batch, make_task
) -> None:
    """They are drawn one after the other from the global generator."""
    recorder, settings = Recorder(colour_network), {"severity": 8, "width": 2}
    task = make_task(method, **settings)
    torch.manual_seed(3)
    task.loss(recorder, colour_batch)
    (seen,) = recorder.seen
    torch.manual_seed(3)
    first, second = (augmixed(colour_batch.x, **settings) for _ in range(2))
    assert torch.equal(seen, torch.cat([colour_batch.x, first, second]))
    assert (first != second).flatten(1).any(1).all()


def test_views_are_torchvisions_and_differ_from_image_to_image() -> None:
    transforms = import_torchvision("torchvision.transforms")
    images = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8).expand(5, -1, -1, -1)
    torch.manual_seed(1)
    found = augmixed(images.double() / 255, severity=3, width=3)
    torch.manual_seed(1)
    mixer = transforms.AugMix(severity=3, mixture_width=3, chain_depth=-1, alpha=1.0, all_ops=False)
    expected = torch.stack([mixer(image) for image in images])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.double() / 255)
    assert len(found.flatten(1).unique(dim=0)) == 5


def test_views_are_like_the_images() -> None:
    for channels, size in ((1, 8), (3, 32)):
        x = torch.rand(4, channels, size, size)
        view = augmixed(x, severity=10, width=3)
        assert view.shape == x.shape
        assert 0 <= view.min() <= view.max() <= 1


def test_recipe_is_the_released_training() -> None:
    config = resolve("augmix", recipe="cifar10")
    training = config.training
    assert (config.model.arch, training.epochs, training.batch_size) == ("wrn-40-2", 100, 128)
    assert (training.optimizer.lr, training.optimizer.nesterov) == (0.1, True)
    assert (training.optimizer.weight_decay, training.optimizer.schedule) == (5e-4, "cosine")
    assert training.attack is None
