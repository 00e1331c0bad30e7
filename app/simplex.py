"""Two predictions of three classes as points of a triangle, and where gradient descent moves them.

Coordinates are barycentric: a corner is certainty of one class, the centre a uniform prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.explorer import Loss, value_and_gradients

Floats = NDArray[np.float64]
# Corners A, B, C of a triangle of side 1.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
CLASSES = 3
GRID = 11
# Gradient descent: steps, learning rate, and step length limit, so that no weight makes it jump.
STEPS, RATE, LONGEST_STEP = 36, 0.2, 0.15
LONGEST_ARROW, SHORTEST_ARROW = 0.14, 0.004


@dataclass(frozen=True)
class Field:
    """Where a step of descent moves predictions, as vectors in the plane, unscaled.

    Attributes:
        places: grid of predictions [N, 2].
        moves: of the other prediction, if it were at each of these places [N, 2].
        reference: the reference [2].
        reference_move: of the reference, given the other prediction [2].
        other: the other prediction [2].
    """

    places: Floats
    moves: Floats
    reference: Floats
    reference_move: Floats
    other: Floats


@dataclass(frozen=True)
class Descent:
    """Both predictions during gradient descent on their logits.

    Attributes:
        reference: positions of the reference [T + 1, 2].
        other: positions of the other prediction [T + 1, 2].
        detached_from: the step from which the reference gets no gradient.
    """

    reference: Floats
    other: Floats
    detached_from: int


def plane(probabilities: Floats) -> Floats:
    """Probabilities [..., 3] as points in the plane [..., 2]."""
    places: Floats = probabilities @ CORNERS
    return places


@cache
def grid() -> Floats:
    """Predictions [N, 3] on a regular grid inside the triangle."""
    parts = [(i, j, GRID - i - j) for i in range(1, GRID) for j in range(1, GRID - i)]
    return np.array(parts, dtype=np.float64) / GRID


def field(
    loss: Loss, logits_m: Sequence[float], logits_n: Sequence[float], *, detach_m: bool
) -> Field:
    """The moves of a step of descent on a loss of two logit vectors of three classes."""
    places = grid()
    m, n = _tensor([logits_m] * len(places)), _tensor(np.log(places))
    # The loss is a mean over its rows, which are independent of one another.
    _, _, to_n = value_and_gradients(loss, m, n, detach_m=detach_m)
    pair_m, pair_n = _tensor([logits_m]), _tensor([logits_n])
    _, to_m, _ = value_and_gradients(loss, pair_m, pair_n, detach_m=detach_m)
    reference, other = (_probabilities(each)[0] for each in (pair_m, pair_n))
    return Field(
        plane(places),
        plane(_moved(places, -len(places) * to_n.numpy())),
        plane(reference),
        plane(_moved(reference[None], -to_m.numpy()))[0],
        plane(other),
    )


def descent(
    loss: Loss, logits_m: Sequence[float], logits_n: Sequence[float], *, detached_from: int
) -> Descent:
    """``STEPS`` steps of gradient descent on both logit vectors.

    The reference gets no gradient from step ``detached_from`` (from 0) on.
    """
    m, n = _tensor([logits_m]), _tensor([logits_n])
    seen = [(m, n)]
    for step in range(STEPS):
        _, to_m, to_n = value_and_gradients(loss, m, n, detach_m=step >= detached_from)
        m, n = m - _cut(RATE * to_m), n - _cut(RATE * to_n)
        seen.append((m, n))
    reference, other = (
        plane(np.concatenate([_probabilities(each) for each in side]))
        for side in zip(*seen, strict=True)
    )
    return Descent(reference, other, detached_from)


def longest(fields: Sequence[Field]) -> float:
    """The length of the longest move of some fields, to draw all arrows on one scale."""
    moves = [np.vstack([each.moves, each.reference_move]) for each in fields]
    return float(np.linalg.norm(np.vstack(moves), axis=1).max())


def field_marks(found: Field, scale: float, *, detached: bool) -> pd.DataFrame:
    """A field as marks for ``charts.simplex``: arrows of ``scale`` times their move's length.

    The reference has an arrow unless it is detached.
    """
    rows = _frame_marks()
    rows += _arrows("other-arrow", found.places, scale * found.moves)
    if not detached:
        move = scale * found.reference_move
        rows += _arrows("reference-arrow", found.reference[None], move[None])
    return pd.DataFrame([*rows, *_points(found.reference, found.other, detached)])


def descent_marks(found: Descent, step: int) -> pd.DataFrame:
    """The first ``step`` steps of a descent as marks for ``charts.simplex``."""
    rows = _frame_marks()
    for side, places in (("reference", found.reference), ("other", found.other)):
        rows += [
            {"kind": f"{side}-path", "x": x, "y": y, "order": order}
            for order, (x, y) in enumerate(places[: step + 1])
        ]
    detached = step >= found.detached_from
    rows += _points(found.reference[step], found.other[step], detached)
    return pd.DataFrame(rows)


def _frame_marks() -> list[dict[str, Any]]:
    edges = [(0, 1), (1, 2), (2, 0)]
    rows: list[dict[str, Any]] = [
        {"kind": "edge", "x": a[0], "y": a[1], "x2": b[0], "y2": b[1]}
        for a, b in ((CORNERS[i], CORNERS[j]) for i, j in edges)
    ]
    middle = CORNERS.mean(0)
    for name, corner in zip("ABC", CORNERS, strict=True):
        x, y = corner + 0.1 * (corner - middle)
        rows.append({"kind": "corner", "x": x, "y": y, "text": name})
    return rows


def _arrows(kind: str, starts: Floats, moves: Floats) -> list[dict[str, Any]]:
    """A line and a head for each move that is long enough to be seen."""
    rows = []
    for (x, y), (dx, dy) in zip(starts, moves, strict=True):
        if np.hypot(dx, dy) > SHORTEST_ARROW:
            end = {"x": x + dx, "y": y + dy}
            rows.append({"kind": kind, "x": x, "y": y, "x2": x + dx, "y2": y + dy})
            # Vega rotates marks clockwise from the top.
            angle = float(np.degrees(np.arctan2(dx, dy)))
            rows.append({"kind": f"{kind}-head", "angle": angle, **end})
    return rows


def _points(reference: Floats, other: Floats, detached: bool) -> list[dict[str, Any]]:
    names = {"detached" if detached else "reference": reference, "other": other}
    texts = {"reference": "reference", "detached": "reference, detached", "other": "other"}
    return [
        {"kind": kind, "x": place[0], "y": place[1], "text": texts[kind]}
        for kind, place in names.items()
    ]


def _moved(probabilities: Floats, change: Floats) -> Floats:
    """First-order change of probabilities [B, 3] for a change of their logits."""
    mean = (probabilities * change).sum(-1, keepdims=True)
    moved: Floats = probabilities * (change - mean)
    return moved


def _cut(step: Tensor) -> Tensor:
    length = float(step.norm())
    return step * (LONGEST_STEP / length) if length > LONGEST_STEP else step


def _tensor(values: object) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def _probabilities(logits: Tensor) -> Floats:
    found: Floats = torch.softmax(logits, -1).numpy()
    return found
