"""Shapes of features without computing them."""

import copy

import pytest
import torch

from harness.models import build_model
from harness.models.normalize import Normalized
from harness.models.shapes import feature_shapes


@pytest.mark.parametrize("wrapped", [False, True])
def test_shapes_are_those_of_the_features_and_the_network_stays_as_it_is(wrapped):
    network = build_model("resnet8", 5, 3, 16).train()
    if wrapped:
        network = Normalized(network, (0.5,) * 3, (0.2,) * 3).train()
    before = copy.deepcopy(network.state_dict())
    shapes = feature_shapes(network, 3, 16)
    assert network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    shown = network.features(torch.rand(1, 3, 16, 16))
    for kind in ("stages", "preacts"):
        expected = [tensor.shape for tensor in getattr(shown, kind)]
        assert [tensor.shape for tensor in getattr(shapes, kind)] == expected
    assert shapes.pooled.shape == shown.pooled.shape
    assert shapes.logits.shape == shown.logits.shape
    assert shapes.pooled.device.type == "meta"
