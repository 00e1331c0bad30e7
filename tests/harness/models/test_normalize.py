"""Normalisation inside the model."""

import pytest
import torch
from torch import nn

from harness.data import dataset_info
from harness.errors import UserError
from harness.models.normalize import Normalized, statistics_of
from harness.models.resnet import ResNet

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)


@pytest.fixture
def network():
    return ResNet(4, blocks=(1, 1, 1), channels=(4, 4, 8, 8)).eval()


def test_model_sees_normalised_images(network):
    x = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(x[:, k] - MEAN[k]) / STD[k] for k in range(3)], dim=1)
    model = Normalized(network, MEAN, STD)
    torch.testing.assert_close(model.normalize(x), by_hand)
    torch.testing.assert_close(model(x), network(by_hand))


def test_features_pass_through(network):
    x = torch.rand(2, 3, 8, 8)
    model = Normalized(network, MEAN, STD)
    shown = model.features(x)
    torch.testing.assert_close(shown.logits, model(x))
    assert len(shown.stages) == 4
    assert model.feature_channels == network.feature_channels
    assert model.batchnorm_before_relu() == network.batchnorm_before_relu()


def test_statistics_are_buffers_that_a_state_dict_carries(network):
    model = Normalized(network, MEAN, STD)
    assert {"mean", "std"} <= model.state_dict().keys()
    assert not any(name in ("mean", "std") for name, _ in model.named_parameters())
    assert (
        model.to(torch.float64)(torch.rand(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
    )


def test_one_channel_images():
    model = Normalized(nn.Flatten(), (0.5,), (0.5,))
    torch.testing.assert_close(model(torch.ones(1, 1, 2, 2)), torch.ones(1, 4))


@pytest.mark.parametrize(
    "normalize",
    ["0.5;0", "0.5;-1", "nan;1", "0.5;nan", "0.5;inf", ([0.5], [0.0]), ([float("inf")], [1.0])],
)
def test_values_that_no_image_can_be_normalised_by_are_refused(normalize):
    with pytest.raises(UserError, match="give finite means and positive stds"):
        statistics_of(normalize, dataset_info("digits"))


def test_a_network_without_features_is_refused():
    model = Normalized(nn.Flatten(), MEAN, STD)
    with pytest.raises(UserError, match="Flatten has no features"):
        model.features(torch.rand(1, 3, 8, 8))
