"""``bench.attack``: what it returns, what it leaves unchanged, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import divergence_bench as bench
from harness.errors import UserError
from harness.models.checkpoint import state_dict_sha256
from tests.divergence_bench.test_api import accuracy, digits, network


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_adversarial_images_stay_in_the_ball_and_fool(norm: str) -> None:
    images, labels = digits()
    model, before = network(), torch.random.get_rng_state()
    eps = 0.15 if norm == "Linf" else 1.0
    found = bench.attack(model, images, labels, "apgd-ce", eps=eps, norm=norm, n_iter=10)
    moved = (found - images).flatten(1)
    length = moved.abs().amax(1) if norm == "Linf" else moved.norm(dim=1)
    assert length.max() <= eps + 1e-5
    assert found.min() >= 0
    assert found.max() <= 1
    clean, robust = (accuracy(model, x, labels) for x in (images, found))
    assert robust < clean - 0.2
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": 5}, "the model is of type int"),
        ({"model": network(3)}, r"cannot take images of 1x8x8 \(RuntimeError"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, "images are torch.uint8"),
        ({"images": torch.rand(4, 1, 8, 8) + 1}, r"values that are not in \[0, 1\]"),
        ({"images": np.zeros((4, 1, 8, 8))}, "images are of type ndarray: give a tensor"),
        ({"images": torch.rand(0, 1, 8, 8)}, "give at least one"),
        ({"labels": torch.arange(3)}, r"of shape \[3\]: give 4 integers, one class per image"),
        ({"labels": torch.rand(4)}, "labels are torch.float32"),
        ({"labels": torch.arange(4) + 8}, "labels are from 8 to 11, but the model has 10 classes"),
        ({"labels": torch.arange(4) - 1}, "labels are from -1 to 2, .*: give labels from 0 to 9"),
        ({"batch_size": 0}, "batch_size is 0: give an integer from 1 on"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
)
def test_what_cannot_be_attacked_is_said_in_a_sentence(change: Any, message: str) -> None:
    given = {"model": network(), "images": torch.rand(4, 1, 8, 8), "labels": torch.arange(4)}
    with pytest.raises(UserError, match=message):
        bench.attack(**{**given, **change}, eps=0.1, n_iter=1)


def test_a_functions_networks_are_not_changed_and_are_attacked_in_eval_mode(tmp_path):
    images, labels = digits()
    torch.manual_seed(1)
    inner = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )
    inner(torch.rand(8, 1, 8, 8))
    before, mode = state_dict_sha256(inner), inner.training
    options = {"eps": 0.05, "attacks": "none", "results": tmp_path, "quiet": True}
    first, again = (bench.evaluate(lambda x: inner(x), (images, labels), **options) for _ in "ab")
    assert (first.run_id, bool(again.stored_at)) == (again.run_id, True)
    attacked = bench.attack(lambda x: inner(x), images, labels, eps=0.05, n_iter=3)
    assert torch.equal(attacked, bench.attack(inner, images, labels, eps=0.05, n_iter=3))
    assert (state_dict_sha256(inner), inner.training) == (before, mode)
