"""Square on windows finds to the last bit what the maintainers' Square finds."""

import pytest
import torch
from pyautoattack.square import SquareAttack

from harness.evaluation.attack.square import FastSquare


@pytest.mark.parametrize(("norm", "eps", "restarts"), [("Linf", 0.2, 2), ("L2", 1.5, 1)])
def test_it_finds_the_same_images_bit_by_bit(norm, eps, restarts, network, digits):
    x, y = digits.images_float(slice(60)), digits.labels[:60]
    settings = {"norm": norm, "eps": eps, "seed": 3, "n_queries": 150, "n_restarts": restarts}
    expected, found = (
        kind(network, p_init=0.8, resc_schedule=False, **settings).perturb(x.clone(), y.clone())
        for kind in (SquareAttack, FastSquare)
    )
    broken = (network(expected).argmax(dim=1) != y).sum()
    assert (network(x).argmax(dim=1) != y).sum() + 5 < broken < 60
    assert torch.equal(found, expected)
