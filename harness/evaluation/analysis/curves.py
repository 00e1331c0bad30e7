"""Robust accuracy over the radius: one evaluation a radius, and what their order gives away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from harness.config import EvalConfig, Norm, parse_fraction
from harness.data.base import DatasetInfo
from harness.errors import UserError
from harness.evaluation.analysis.flags import LARGE_EPS_POINTS, LARGE_LINF, Flag
from harness.evaluation.analysis.paired import correct_by_metric
from harness.store.database import Database
from harness.store.rundir import EvaluationDirectory, RunDirectory

RISES = "rises-with-eps"
SURVIVES = "survives-large-eps"
CURVE_FLAGS = (RISES, SURVIVES)
# All that makes two points belong to one curve; the radius alone differs.
CURVE_FIELDS = (
    "norm", "attacks", "attack_version", "precision", "data_sha256", "model_sha256", "index_sha256",
    "seed", "chunk_size", "accelerate",
)  # fmt: skip


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


def radii(text: str) -> tuple[float, ...]:
    """``"0,2/255,8/255"`` as numbers, ascending.

    Raises:
        UserError: one is no number of at least 0, or is there twice.
    """
    found = []
    for part in text.split(","):
        try:
            eps = float(parse_fraction(part.strip()))
        except ValueError as error:
            raise UserError(
                f"--eps {text}: {part.strip()!r} is no radius: give one such as 8/255, or several "
                "with commas between them"
            ) from error
        if not 0 <= eps < float("inf"):
            raise UserError(f"--eps {text}: {part.strip()} is no radius: give 0 or more")
        found.append(eps)
    if len(set(found)) < len(found):
        raise UserError(f"--eps {text} has a radius twice: leave one out")
    return tuple(sorted(found))


def protocols(base: EvalConfig, several: Sequence[float]) -> list[EvalConfig]:
    """One protocol a radius; at 0 there is no attack.

    Without attack the radius means nothing: it is the default one, so that clean accuracy is one
    and the same evaluation for every curve.
    """
    without = {"attacks": (), "eps": EvalConfig().eps}
    return [
        EvalConfig.model_validate(base.model_dump() | ({"eps": eps} if eps else without))
        for eps in several
    ]


def curve_of(run: RunDirectory, evaluation_id: str) -> list[Point]:
    """The curve that a finished evaluation is on, by ascending radius, from 0: its siblings.

    The point at 0 is the clean accuracy that each of them has. One radius alone is no curve: then,
    and for an evaluation without attacks, the list is empty.
    """
    group = next((group for group in curves(run) if evaluation_id in _ids(group)), [])
    if len(group) < 2:
        return []
    points = [_point(each) for each in group]
    clean = group[0].record["metrics"]["clean"]
    zero = {"robust": clean["value"], "low": clean["low"], "high": clean["high"]}
    stages = dict.fromkeys(points[0].stages, clean["value"])
    return [replace(points[0], eps=0.0, stages=stages, flags=(), **zero), *points]


def curves(run: RunDirectory) -> list[list[EvaluationDirectory]]:
    """The finished evaluations with attacks, those of a curve together, by ascending radius."""
    groups: dict[tuple[str, ...], list[EvaluationDirectory]] = defaultdict(list)
    for each in attacked(run):
        groups[_key(each.record["protocol"])].append(each)
    return [sorted(group, key=_eps) for group in groups.values()]


def attacked(run: RunDirectory) -> list[EvaluationDirectory]:
    """The finished evaluations with attacks."""
    return [
        each
        for each in run.evaluations()
        if each.record["status"] == "success" and each.record["protocol"]["attacks"]
    ]


def mark(run: RunDirectory, evaluation_id: str, info: DatasetInfo) -> None:
    """Give the evaluations of a curve the flags that only the whole curve shows.

    It is done whenever a point is finished, so that flags do not depend on the order of radii.
    """
    for group in curves(run):
        if evaluation_id not in _ids(group):
            continue
        found = group_flags(group, info)
        for each in group:
            before = each.record.get("flags") or []
            kept = [flag for flag in before if flag["name"] not in (RISES, SURVIVES)]
            after = kept + [flag.as_dict() for flag in found[each.evaluation_id]]
            if after != before:
                each.update(flags=after)


def group_flags(group: Sequence[EvaluationDirectory], info: DatasetInfo) -> dict[str, list[Flag]]:
    """Evaluation to its flags, of one curve's evaluations by ascending radius."""
    found: dict[str, list[Flag]] = {}
    smaller: list[tuple[float, NDArray[np.bool_]]] = []
    for each in group:
        protocol = each.record["protocol"]
        verdicts = each.verdicts().to_pandas().sort_values("index")
        eps, robust = (
            float(protocol["eps"]),
            list(correct_by_metric(protocol, verdicts).values())[-1],
        )
        raised = [survives(protocol["norm"], eps, robust, info)]
        if smaller:
            raised.append(rises(*min(smaller, key=lambda pair: pair[1].sum()), eps, robust))
        found[each.evaluation_id] = [flag for flag in raised if flag is not None]
        smaller.append((eps, robust))
    return found


def curve_flags(
    database: Database, run_ids: Sequence[str]
) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Return the flags that only a whole curve shows, by (run_id, evaluation_id).

    Each flag has the keys of a stored one, ``name`` and ``detail``; the names are ``CURVE_FLAGS``.

    Args:
        database: the results database.
        run_ids: the runs whose evaluations are checked.
    """
    return {}


def rises(
    small: float, robust_small: NDArray[np.bool_], large: float, robust_large: NDArray[np.bool_]
) -> Flag | None:
    """More images survive the larger radius than the smaller one, which holds all its attacks.

    Attacks are random, so that single images come back by chance: the images that survive one
    radius only must speak against a fair coin at 5%, one-sided (from 5 to 0 on).

    Args:
        small: the smaller radius.
        robust_small: bool [N], which images survive it.
        large: the larger radius.
        robust_large: bool [N], which survive that, image for image.
    """
    back = int((robust_large & ~robust_small).sum())
    gone = int((robust_small & ~robust_large).sum())
    if not back or scipy.stats.binomtest(back, back + gone, alternative="greater").pvalue >= 0.05:
        return None
    n = len(robust_large)
    return Flag(
        RISES,
        f"{int(robust_large.sum())} of {n} images survive at eps {large:.4g} but only "
        f"{int(robust_small.sum())} at {small:.4g}, whose ball lies inside: the attacks fail there",
    )


def survives(norm: Norm, eps: float, robust: NDArray[np.bool_], info: DatasetInfo) -> Flag | None:
    """Accuracy stays 10 points over chance at a radius at which every image can become grey.

    That is 0.5 in Linf, and what this is at most in L2.
    """
    pixels = info.channels * info.image_size**2
    enough = LARGE_LINF * (1.0 if norm == "Linf" else pixels**0.5)
    survived, n = int(robust.sum()), len(robust)
    if eps < enough or survived <= (1 / info.num_classes + LARGE_EPS_POINTS) * n:
        return None
    return Flag(
        SURVIVES,
        f"{survived} of {n} images survive at {norm} {eps:.4g}, where all can become grey: robust "
        "accuracy does not fall to chance, so gradients are masked",
    )


def _point(evaluation: EvaluationDirectory) -> Point:
    record = evaluation.record
    protocol, metrics = record["protocol"], record["metrics"]
    robust = metrics["robust"]
    return Point(
        eps=float(protocol["eps"]),
        evaluation_id=evaluation.evaluation_id,
        n=int(robust["n"]),
        stages={name: float(metrics[name]["value"]) for name in protocol["attacks"]},
        robust=float(robust["value"]),
        low=float(robust["low"]),
        high=float(robust["high"]),
        flags=tuple(flag["name"] for flag in record.get("flags") or []),
    )


def _eps(evaluation: EvaluationDirectory) -> float:
    return float(evaluation.record["protocol"]["eps"])


def _key(protocol: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(protocol[name]) for name in CURVE_FIELDS)


def _ids(group: Sequence[EvaluationDirectory]) -> list[str]:
    return [each.evaluation_id for each in group]
