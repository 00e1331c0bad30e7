"""Points for the trade-off charts, from printed rows and from runs, and their Pareto front."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from leaderboards.badges import MEANINGS, PRINTED, REPRODUCED, SMALL
from leaderboards.names import dataset_name
from leaderboards.reported import load_reported
from leaderboards.standing import arch_text


class Axis(NamedTuple):
    """A number that can be shown: its column, and which end is good."""

    field: str
    lower_is_better: bool = False


AXES = {
    "AutoAttack accuracy (%)": Axis("aa"),
    "Clean accuracy (%)": Axis("clean"),
    "Accuracy after the last attack (%)": Axis("robust"),
    "Seconds per step": Axis("sec_per_iter", True),
    "Training (hours)": Axis("hours", True),
}
SOURCES = {badge: f"{badge}: {MEANINGS[badge]}" for badge in (PRINTED, REPRODUCED, SMALL)}
COLUMNS = ["name", "arch", "dataset", "augmentation", "source", "where", "page"]
NUMBERS = ["aa", "aa_low", "aa_high", "clean", "clean_low", "clean_high", "robust", "robust_low"]
NUMBERS += ["robust_high", "sec_per_iter", "hours"]

_PRINTED_NAMES = {"clean": "clean", "top1": "clean", "aa": "aa", "sec_per_iter": "sec_per_iter"}


def printed_points() -> pd.DataFrame:
    """Every printed row that has at least one number of ``AXES``; accuracies in percent."""
    lines = load_reported()
    lines = lines.assign(field=lines["metric"].map(_PRINTED_NAMES)).dropna(subset="field")
    lines = lines[
        ~lines["method"].str.startswith("Delta") & ~lines["setting"].str.contains("panel=")
    ]
    keys = ["table", "dataset", "method", "teacher", "student_or_arch", "augmentation", "setting"]
    wide = lines.pivot_table(index=keys, columns="field", values="value", sort=False).reset_index()
    points = pd.DataFrame(
        {
            "name": wide["method"],
            "arch": [
                arch_text(arch, teacher or None)
                for arch, teacher in zip(wide["student_or_arch"], wide["teacher"], strict=True)
            ],
            "dataset": wide["dataset"].map(dataset_name),
            "augmentation": wide["augmentation"],
            "source": SOURCES[PRINTED],
            "where": "Table " + wide["table"].astype(str),
            "page": None,
        }
    )
    for name in ("aa", "clean", "sec_per_iter"):
        points[name] = wide[name]
    return points.reindex(columns=COLUMNS + NUMBERS)


def run_points(runs: pd.DataFrame) -> pd.DataFrame:
    """The whole runs of ``queries.runs`` as points; those on a part of the data are left out."""
    runs = runs[~runs["partial"].astype(bool) & runs["clean"].notna()]
    attacked = runs["attacks"].fillna("") != ""
    is_paper = runs["scale"] == "paper"
    points = pd.DataFrame(
        {
            "name": runs["title"],
            "arch": [
                arch_text(arch, None if pd.isna(teacher) else teacher)
                for arch, teacher in zip(runs["arch"].fillna(""), runs["teacher"], strict=True)
            ],
            "dataset": runs["dataset"],
            "augmentation": "",
            "source": is_paper.map({True: SOURCES[REPRODUCED], False: SOURCES[SMALL]}),
            "where": runs["run_id"],
            "page": "run?run=" + runs["run_id"],
            "aa": 100 * runs["aa"],
            "aa_low": 100 * runs["robust_low"],
            "aa_high": 100 * runs["robust_high"],
            "clean": 100 * runs["clean"],
            "clean_low": 100 * runs["clean_low"],
            "clean_high": 100 * runs["clean_high"],
            "robust": (100 * runs["robust"]).where(attacked),
            "robust_low": 100 * runs["robust_low"],
            "robust_high": 100 * runs["robust_high"],
            "sec_per_iter": runs["sec_per_iter"],
            "hours": runs["train_seconds"] / 3600,
        }
    )
    return points.reindex(columns=COLUMNS + NUMBERS)


def pareto_front(points: pd.DataFrame, *, x_lower: bool, y_lower: bool) -> pd.DataFrame:
    """The points that no other point equals or beats in both numbers, sorted by ``x``.

    Args:
        points: columns ``x`` and ``y``.
        x_lower: whether small x is good.
        y_lower: whether small y is good.
    """
    ordered = points.sort_values(["x", "y"], ascending=[x_lower, y_lower], kind="stable")
    best = float("inf") if y_lower else float("-inf")
    kept = []
    for index, y in ordered["y"].items():
        if y < best if y_lower else y > best:
            best = y
            kept.append(index)
    return points.loc[kept].sort_values("x")
