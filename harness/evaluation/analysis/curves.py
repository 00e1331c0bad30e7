"""Robust accuracy over the radius: one evaluation a radius, and the flags that their order shows.

The flags of a curve depend on all of its evaluations, so they are computed when they are read and
never stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import scipy

from harness.config import Norm
from harness.errors import UserError
from harness.evaluation.analysis.flags import Flag, above_chance, grey_eps
from harness.store.database import Database
from harness.store.rundir import EvaluationDirectory, RunDirectory

if TYPE_CHECKING:
    from harness.data.base import DatasetInfo

RISES = "rises-with-eps"
SURVIVES = "survives-large-eps"
CURVE_FLAGS = (RISES, SURVIVES)
# Evaluations that agree in these are points of one curve; only the radius differs.
CURVE_FIELDS = (
    "norm", "attacks", "attack_version", "precision", "data_sha256", "model_sha256", "index_sha256",
    "seed", "chunk_size", "accelerate",
)  # fmt: skip

# Values of the smallest registered images, 8x8 digits.
FEWEST_VALUES = 64

FlagDict = dict[str, str]


@dataclass(frozen=True)
class Point:
    """One radius of a curve; accuracies are fractions, ``stages`` in the order of attack."""

    eps: float
    evaluation_id: str
    n: int
    stages: dict[str, float]
    robust: float
    low: float
    high: float
    flags: tuple[str, ...]


def curve_of(run: RunDirectory, evaluation_id: str) -> list[Point]:
    """The curve of a finished evaluation and its siblings, by ascending radius, from 0.

    The point at 0 is the clean accuracy that each of them has. A single radius is no curve: then,
    and for an evaluation without attacks, the list is empty.
    """
    group = next((group for group in curves(run) if evaluation_id in _ids(group)), [])
    if len(group) < 2:
        return []
    computed = curve_flags(Database(run.results), [run.run_id])
    records = [with_curve_flags(each.record, computed) for each in group]
    points, clean = [_point(record) for record in records], records[0]["metrics"]["clean"]
    zero = {"robust": clean["value"], "low": clean["low"], "high": clean["high"]}
    stages = dict.fromkeys(points[0].stages, clean["value"])
    return [replace(points[0], eps=0.0, stages=stages, flags=(), **zero), *points]


def curves(run: RunDirectory) -> list[list[EvaluationDirectory]]:
    """The finished evaluations with attacks, those of a curve together, by ascending radius."""
    groups: dict[tuple[str, ...], list[EvaluationDirectory]] = defaultdict(list)
    for each in run.evaluations():
        protocol = each.record.get("protocol") or {}
        if each.record["status"] == "success" and protocol["attacks"]:
            groups[tuple(str(protocol[name]) for name in CURVE_FIELDS)].append(each)
    return [sorted(group, key=_eps) for group in groups.values()]


def with_curve_flags(
    record: dict[str, Any], computed: Mapping[tuple[str, str], Sequence[FlagDict]]
) -> dict[str, Any]:
    """An evaluation's record with the flags of its curve, which ``curve_flags`` computed.

    Earlier releases stored those as well; they may be out of date and are left out.
    """
    stored = [flag for flag in record.get("flags") or [] if flag["name"] not in CURVE_FLAGS]
    return record | {"flags": stored + list(computed.get(_key(record), ()))}


def curve_flags(
    database: Database, run_ids: Sequence[str]
) -> dict[tuple[str, str], list[FlagDict]]:
    """The flags that only a whole curve shows, by (run_id, evaluation_id).

    Each flag has the keys of a stored one, ``name`` and ``detail``; the names are ``CURVE_FLAGS``.

    Args:
        database: the results database.
        run_ids: the runs whose evaluations are checked.
    """
    rows = database.query(
        f"""
        SELECT run_id, evaluation_id, dataset, norm, eps, metrics.n AS n,
               CAST(round(metrics.value * metrics.n) AS INTEGER) AS survived,
               hash(run_id, {", ".join(f'evaluations."{name}"' for name in CURVE_FIELDS)}) AS curve
        FROM evaluations JOIN runs USING (run_id) JOIN metrics USING (run_id, evaluation_id)
        WHERE run_id IN (SELECT unnest(CAST($run_ids AS VARCHAR[]))) AND metrics.name = 'robust'
          AND evaluations.status = 'success' AND evaluations.attacks != ''
        ORDER BY curve, eps
        """,
        {"run_ids": list(run_ids)},
    )
    found: dict[tuple[str, str], list[FlagDict]] = {}
    points: Iterable[Any] = rows.itertuples()
    for _, curve in groupby(points, key=lambda point: point.curve):
        smallest: Any = None
        for point in curve:
            flags = [survives(point.norm, point.eps, point.survived, point.n, point.dataset)]
            # The smallest accuracy so far holds at this radius too: its ball lies inside.
            if smallest is not None and point.survived > smallest.survived:
                flags.append(rises(smallest, point, *_changes(database, smallest, point)))
            if smallest is None or point.survived < smallest.survived:
                smallest = point
            if raised := [flag.as_dict() for flag in flags if flag is not None]:
                found[point.run_id, point.evaluation_id] = raised
    return found


def _changes(database: Database, small: Any, large: Any) -> tuple[int, int]:
    """Images that survive the large radius only, and those that survive the small one only."""
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
    """More images survive the larger radius than the smaller one, whose attacks it allows too.

    Attacks are random, and single images come back by chance. So the images that survive one radius
    only must differ from a fair coin at 5%, one-sided: from 5 to 0 on.

    Args:
        small: the smaller radius, with ``eps`` and the number that ``survived``.
        large: the larger one, with ``n`` as well.
        back: images that survive the larger radius only.
        gone: images that survive the smaller one only.
    """
    if not back or scipy.stats.binomtest(back, back + gone, alternative="greater").pvalue >= 0.05:
        return None
    return Flag(
        RISES,
        f"{large.survived} of {large.n} images survive at eps {large.eps:.4g} but only "
        f"{small.survived} at {small.eps:.4g}, whose ball lies inside: the attacks fail there",
    )


def survives(norm: Norm, eps: float, survived: int, n: int, dataset: str) -> Flag | None:
    """Accuracy stays above chance at a radius at which every image can become grey."""
    if eps < grey_eps(norm, FEWEST_VALUES):
        return None
    info = _info(dataset)
    if info is None or eps < grey_eps(norm, info.channels * info.image_size**2):
        return None
    if not above_chance(survived, n, info.num_classes):
        return None
    return Flag(
        SURVIVES,
        f"{survived} of {n} images survive at {norm} {eps:.4g}, where all can become grey: robust "
        "accuracy does not fall to chance, so gradients are masked",
    )


def _info(dataset: str) -> DatasetInfo | None:
    # Tables are shown without torch, which data sets import.
    from harness.data import dataset_info

    try:
        return dataset_info(dataset)
    except UserError:  # of another release, or images that are no registered data set
        return None


def _point(record: dict[str, Any]) -> Point:
    protocol, metrics = record["protocol"], record["metrics"]
    robust = metrics["robust"]
    return Point(
        eps=float(protocol["eps"]),
        evaluation_id=record["evaluation_id"],
        n=int(robust["n"]),
        stages={name: float(metrics[name]["value"]) for name in protocol["attacks"]},
        robust=float(robust["value"]),
        low=float(robust["low"]),
        high=float(robust["high"]),
        flags=tuple(flag["name"] for flag in record["flags"]),
    )


def _key(record: dict[str, Any]) -> tuple[str, str]:
    return record["run_id"], record["evaluation_id"]


def _eps(evaluation: EvaluationDirectory) -> float:
    return float(evaluation.record["protocol"]["eps"])


def _ids(group: Sequence[EvaluationDirectory]) -> list[str]:
    return [each.evaluation_id for each in group]
