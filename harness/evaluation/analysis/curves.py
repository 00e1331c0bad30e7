"""Robust accuracy over the radius: one evaluation per radius, and the flags the curve raises.

A curve's flags depend on all of its evaluations, so they are computed on reading and never stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from harness.config import Norm, eps_text
from harness.errors import UserError
from harness.evaluation.analysis.flags import Flag, above_chance, grey_eps
from harness.evaluation.analysis.statistics import binomial_p
from harness.store.database import Database

if TYPE_CHECKING:
    from harness.data.base import DatasetInfo

RISES = "rises-with-eps"
SURVIVES = "survives-large-eps"
# Evaluations that agree in these fields are points of one curve; only the radius differs.
CURVE_FIELDS = (
    "norm", "attacks", "attack_version", "precision", "data_sha256", "model_sha256", "index_sha256",
    "seed", "chunk_size", "accelerate",
)  # fmt: skip

# Pixel values of the smallest registered images, 8x8 digits.
FEWEST_VALUES = 64

FlagDict = dict[str, str]


@dataclass(frozen=True)
class Point:
    """One radius of a curve; accuracies are fractions, and ``stages`` is in the order of attack."""

    eps: float
    evaluation_id: str
    n: int
    stages: dict[str, float]
    robust: float
    low: float
    high: float
    flags: tuple[str, ...]


def curves(database: Database, run_id: str) -> list[list[Point]]:
    """Return a run's curves of more than one radius, each in ascending order from radius 0.

    The point at 0 is the clean accuracy, which all of the curve's evaluations share.
    """
    flags = flags_of(database, [run_id])
    rows = database.query("SELECT * FROM metrics WHERE run_id = ?", [run_id])
    metrics: dict[tuple[Any, Any], Any] = {
        (row.evaluation_id, row.name): row for row in rows.itertuples(index=False)
    }
    found = []
    for curve in _curves(database, [run_id]):
        points = [
            Point(
                eps=row.eps,
                evaluation_id=row.evaluation_id,
                n=row.n,
                stages={
                    name: metrics[row.evaluation_id, name].value for name in row.attacks.split(",")
                },
                robust=row.robust,
                low=row.low,
                high=row.high,
                flags=tuple(flag["name"] for flag in flags[run_id, row.evaluation_id]),
            )
            for row in curve
        ]
        if len(points) > 1:
            clean = metrics[points[0].evaluation_id, "clean"]
            zero = {"robust": clean.value, "low": clean.low, "high": clean.high}
            stages = dict.fromkeys(points[0].stages, clean.value)
            found.append([replace(points[0], eps=0.0, stages=stages, flags=(), **zero), *points])
    return found


def curve_of(database: Database, run_id: str, evaluation_id: str) -> list[Point]:
    """Return the curve with this evaluation; empty if no other radius has the same protocol."""
    several = curves(database, run_id)
    return next((c for c in several if evaluation_id in {p.evaluation_id for p in c}), [])


def flags_of(database: Database, run_ids: Sequence[str]) -> dict[tuple[str, str], list[FlagDict]]:
    """Return each evaluation's flags by (run_id, evaluation_id): stored ones, then its curve's.

    Earlier releases also stored curve flags; these may be out of date and are left out.

    Args:
        database: the results database.
        run_ids: the runs whose evaluations are checked.
    """
    rows = database.query(
        """
        SELECT run_id, evaluation_id, coalesce(flags, '[]') AS flags FROM evaluations
        WHERE run_id IN (SELECT unnest(CAST($run_ids AS VARCHAR[])))
        """,
        {"run_ids": list(run_ids)},
    )
    found = {
        (run_id, evaluation_id): [
            flag for flag in json.loads(flags) if flag["name"] not in (RISES, SURVIVES)
        ]
        for run_id, evaluation_id, flags in rows.itertuples(index=False)
    }
    for curve in _curves(database, run_ids):
        smallest = curve[0]
        for point in curve:
            flags = [survives(point.norm, point.eps, point.survived, point.n, point.dataset)]
            # The smallest accuracy so far bounds this radius too: its ball is inside this one.
            if point.survived > smallest.survived:
                flags.append(rises(smallest, point, *_changes(database, smallest, point)))
            if point.survived < smallest.survived:
                smallest = point
            found[point.run_id, point.evaluation_id] += [flag._asdict() for flag in flags if flag]
    return found


def _curves(database: Database, run_ids: Sequence[str]) -> Iterator[list[Any]]:
    """Yield each curve: its finished evaluations with attacks, by ascending radius.

    Each has ``run_id``, ``evaluation_id``, ``dataset``, ``norm``, ``eps``, ``attacks``, ``n``, the
    number of images that ``survived``, and ``robust`` with its interval ``low`` to ``high``.
    """
    fields = ", ".join(f'evaluations."{name}"' for name in CURVE_FIELDS)
    rows = database.query(
        f"""
        SELECT run_id, evaluation_id, dataset, norm, eps, attacks, metrics.n AS n,
               CAST(round(metrics.value * metrics.n) AS INTEGER) AS survived,
               metrics.value AS robust, metrics.low AS low, metrics.high AS high,
               min(evaluation_id) OVER (PARTITION BY run_id, {fields}) AS curve
        FROM evaluations JOIN runs USING (run_id) JOIN metrics USING (run_id, evaluation_id)
        WHERE run_id IN (SELECT unnest(CAST($run_ids AS VARCHAR[]))) AND metrics.name = 'robust'
          AND evaluations.status = 'success' AND evaluations.attacks != ''
        ORDER BY run_id, curve, eps
        """,
        {"run_ids": list(run_ids)},
    )
    points: Iterable[Any] = rows.itertuples(index=False)
    for _, curve in groupby(points, key=lambda point: (point.run_id, point.curve)):
        yield list(curve)


def _changes(database: Database, small: Any, large: Any) -> tuple[int, int]:
    """Count the images that survive only the large radius, and only the small one."""
    counts = database.query(
        """
        SELECT count(*) FILTER (large.broken_by IS NULL AND small.broken_by IS NOT NULL) AS back,
               count(*) FILTER (small.broken_by IS NULL AND large.broken_by IS NOT NULL) AS gone
        FROM verdicts AS small JOIN verdicts AS large USING (run_id, "index")
        WHERE run_id = ? AND small.evaluation_id = ? AND large.evaluation_id = ?
        """,
        [small.run_id, small.evaluation_id, large.evaluation_id],
    ).iloc[0]
    return int(counts["back"]), int(counts["gone"])


def rises(small: Any, large: Any, back: int, gone: int) -> Flag | None:
    """Flag more survivors at a larger radius, which also allows every smaller perturbation.

    Attacks are random, and a few images come back by chance. So the images that survive only one of
    the radii must differ from a fair coin at 5%, one-sided: from 5 to 0 on.

    Args:
        small: the smaller radius, with ``eps`` and the number of images that ``survived``.
        large: the larger one, also with ``n``.
        back: images that survive only the larger radius.
        gone: images that survive only the smaller radius.
    """
    if not back or binomial_p(back, back + gone, 0.5) >= 0.05:
        return None
    return Flag(
        RISES,
        f"{large.survived} of {large.n} images survive at eps {eps_text(large.eps)} but only "
        f"{small.survived} at {eps_text(small.eps)}, whose ball is inside: the attacks fail "
        "there",
    )


def survives(norm: Norm, eps: float, survived: int, n: int, dataset: str) -> Flag | None:
    """Flag accuracy above chance at a radius where every image can turn grey."""
    if eps < grey_eps(norm, FEWEST_VALUES):
        return None
    info = _info(dataset)
    if info is None or eps < grey_eps(norm, info.channels * info.image_size**2):
        return None
    if not above_chance(survived, n, info.num_classes):
        return None
    return Flag(
        SURVIVES,
        f"{survived} of {n} images survive at {norm} {eps_text(eps)}, where every image can turn "
        "grey: robust accuracy does not fall to chance, so gradients are masked",
    )


def _info(dataset: str) -> DatasetInfo | None:
    # Tables are shown without torch, which datasets import.
    from harness.data import dataset_info

    try:
        return dataset_info(dataset)
    except UserError:  # from another release, or not a registered dataset
        return None
