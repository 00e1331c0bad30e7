"""Points for the trade-off charts, from printed rows and from runs, and their Pareto front."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from app.components import records
from app.labels import protocol_text
from harness.evaluation.analysis.statistics import wilson_interval
from leaderboards.names import dataset_name
from leaderboards.paper import TABLES
from leaderboards.printed import load_reported
from leaderboards.protocols import PAPER_EPS, STANDARD_ATTACKS
from leaderboards.ranking import arch_text
from leaderboards.table import MEANINGS, PRINTED, REPRODUCED, SMALL


class Axis(NamedTuple):
    """A number that can be shown: its column, which end is good, and its digits as printed."""

    field: str
    lower_is_better: bool = False
    decimals: int = 2


AXES = {
    "AutoAttack accuracy (%)": Axis("aa"),
    "Clean accuracy (%)": Axis("clean"),
    "Accuracy after the last attack (%)": Axis("robust"),
    "Seconds per step": Axis("sec_per_iter", True, 3),
    "Training (hours)": Axis("hours", True),
}
SOURCES = {badge: f"{badge}: {MEANINGS[badge]}" for badge in (PRINTED, REPRODUCED, SMALL)}
COLUMNS = ["name", "arch", "dataset", "augmentation", "protocol", "source", "where", "page"]
NUMBERS = ["aa", "aa_low", "aa_high", "clean", "clean_low", "clean_high", "robust", "robust_low"]
NUMBERS += ["robust_high", "sec_per_iter", "hours"]

# Every printed row that is one model's is of CIFAR-10 or CIFAR-100.
CIFAR_TEST_IMAGES = 10_000

_PRINTED_NAMES = {"clean": "clean", "top1": "clean", "aa": "aa", "sec_per_iter": "sec_per_iter"}


def printed_points() -> pd.DataFrame:
    """Every printed row that has at least one number of ``AXES``; accuracies in percent."""
    lines = load_reported()
    lines = lines.assign(field=lines["metric"].map(_PRINTED_NAMES)).dropna(subset="field")
    lines = lines[
        ~lines["method"].str.startswith("Delta") & ~lines["setting"].str.contains("panel=")
    ]
    # What else is said of a number, such as the machine of a time, tells no rows apart.
    lines = lines.assign(setting=lines["setting"].map(_named_settings))
    keys = [
        "table",
        "task",
        "dataset",
        "method",
        "teacher",
        "student_or_arch",
        "augmentation",
        "setting",
    ]
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
            "protocol": [
                _printed_protocol(table, task)
                for table, task in zip(wide["table"], wide["task"], strict=True)
            ],
            "source": SOURCES[PRINTED],
            "where": "Table " + wide["table"].astype(str),
            "page": None,
        }
    )
    for name in ("aa", "clean", "sec_per_iter"):
        points[name] = wide[name]
    # Distillation tables print means of several models: they have no interval of this kind.
    for name in ("aa", "clean"):
        spans = [
            (None, None) if task == "kd" or pd.isna(value) else _wilson(value)
            for task, value in zip(wide["task"], wide[name], strict=True)
        ]
        points[f"{name}_low"], points[f"{name}_high"] = zip(*spans, strict=True)
    return points.reindex(columns=COLUMNS + NUMBERS)


def _named_settings(setting: str) -> str:
    return ";".join(part for part in setting.split(";") if "=" in part)


def _printed_protocol(table: int, task: str) -> str:
    facts = {"attacks": "", "n": TABLES[table].images}
    if task != "kd":
        facts |= {"attacks": ",".join(STANDARD_ATTACKS), "norm": "Linf", "eps": PAPER_EPS}
    return protocol_text(facts)


def _wilson(percent: float) -> tuple[float, float]:
    """The 95% interval of a printed accuracy on CIFAR's test images, in percent."""
    low, high = wilson_interval(round(percent / 100 * CIFAR_TEST_IMAGES), CIFAR_TEST_IMAGES)
    return 100 * low, 100 * high


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
            "protocol": [
                protocol_text(row) + ("" if row["scale"] == "paper" else ", small scale")
                for row in records(runs)
            ],
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


def protocols(points: pd.DataFrame) -> list[str]:
    """The protocols of some points, first that of the most which have two numbers."""
    numbers = points[list({axis.field for axis in AXES.values()})].notna().sum(axis=1)
    able = points["protocol"][numbers > 1]
    return list(dict.fromkeys([*able.value_counts().index, *points["protocol"]]))


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


def with_ends(front: pd.DataFrame, points: pd.DataFrame, *, x_lower: bool) -> pd.DataFrame:
    """A front, high y being good, led on to the edges of what it beats.

    Args:
        front: of ``pareto_front``.
        points: all points that are drawn.
        x_lower: whether small x is good.
    """
    line = front[["x", "y"]]
    first, last = line.iloc[0], line.iloc[-1]
    y_low = points["y_low"].min()
    if x_lower:
        ends = [(first["x"], y_low), (points["x"].max(), last["y"])]
    else:
        ends = [(points["x"].min(), first["y"]), (last["x"], y_low)]
    before, after = (pd.DataFrame([end], columns=["x", "y"]) for end in ends)
    return pd.concat([before, line, after], ignore_index=True)
