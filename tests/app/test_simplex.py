"""The triangle of predictions: arrows and paths against steps that are written out here."""

import numpy as np
import pytest
import torch

from app import charts, simplex
from app.explorer import BROKEN, CE, DKL, IKL, KL, WMSE, class_mean, losses

M, N = (1.0, -0.5, 0.2), (0.1, 0.9, -0.3)
LOSSES = losses(class_mean(3, 0, 0.7), 1, 1)


def softmax(logits) -> np.ndarray:
    return torch.softmax(torch.as_tensor(logits, dtype=torch.float64), -1).numpy()


def to_n(name: str, m, n) -> np.ndarray:
    n = torch.tensor([list(n)], dtype=torch.float64, requires_grad=True)
    value = LOSSES[name](torch.tensor([list(m)], dtype=torch.float64), n)
    return torch.autograd.grad(value, n)[0][0].numpy()


def test_a_certain_class_is_a_corner() -> None:
    assert simplex.plane(np.eye(3)) == pytest.approx(simplex.CORNERS)
    assert simplex.plane(np.full(3, 1 / 3)) == pytest.approx(simplex.CORNERS.mean(0))


@pytest.mark.parametrize("name", [KL, CE, DKL, BROKEN, IKL])
def test_arrows_are_small_steps_of_descent(name) -> None:
    found = simplex.field(LOSSES[name], M, N, detach_m=True)
    for place in (0, 17, len(simplex.grid()) - 1):
        n = np.log(simplex.grid()[place])
        rate = 1e-6
        moved = simplex.plane(softmax(n - rate * to_n(name, M, n)) - softmax(n)) / rate
        assert found.moves[place] == pytest.approx(moved, abs=1e-4)


def test_wmse_moves_the_reference_only_and_nothing_once_it_is_detached() -> None:
    together = simplex.field(LOSSES[WMSE], M, N, detach_m=False)
    assert not together.moves.any()
    assert np.linalg.norm(together.reference_move) > 0.01
    detached = simplex.field(LOSSES[WMSE], M, N, detach_m=True)
    assert not detached.moves.any()
    assert not detached.reference_move.any()
    assert set(simplex.field_marks(detached, 1.0, detached=True)["kind"]) == {
        "edge", "corner", "detached", "other",
    }  # fmt: skip


def test_descent_on_dkl_is_descent_on_kl_and_meets_the_reference() -> None:
    kl, dkl = (simplex.descent(LOSSES[name], M, N, detached_from=99) for name in (KL, DKL))
    assert dkl.other == pytest.approx(kl.other)
    assert dkl.reference == pytest.approx(kl.reference)
    gaps = np.linalg.norm(kl.other - kl.reference, axis=1)
    assert gaps[-1] < 0.2 * gaps[0]


def test_a_detached_reference_stays_where_it_is() -> None:
    path = simplex.descent(LOSSES[DKL], M, N, detached_from=5)
    assert (np.diff(path.reference[:6], axis=0) != 0).any(axis=1).all()
    assert (path.reference[5:] == path.reference[5]).all()
    assert (np.diff(path.other, axis=0) != 0).any()
    kinds = [set(simplex.descent_marks(path, step)["kind"]) for step in (4, 5)]
    assert "reference" in kinds[0]
    assert "detached" in kinds[1]


def test_the_triangle_draws_both_predictions_in_different_shapes() -> None:
    found = simplex.field(LOSSES[DKL], M, N, detach_m=False)
    scale = simplex.LONGEST_ARROW / simplex.longest([found])
    marks = simplex.field_marks(found, scale, detached=False)
    arrows = marks[marks["kind"].isin(["other-arrow", "reference-arrow"])]
    lengths = np.hypot(arrows["x2"] - arrows["x"], arrows["y2"] - arrows["y"])
    assert lengths.max() == pytest.approx(simplex.LONGEST_ARROW)
    spec = charts.simplex(marks).to_dict()
    shapes = {layer["mark"].get("shape") for layer in spec["layer"] if "stroke" in layer["mark"]}
    assert shapes == {"square", "circle"}
