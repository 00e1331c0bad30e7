"""Points for the trade-off charts, from the paper's printed rows and from runs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import pandas as pd

from app.labels import protocol_names, protocol_text
from harness.config import STANDARD_ATTACKS
from leaderboards.paper import TABLES
from leaderboards.printed import PRINTED_METRICS, is_difference, printed_lines, printed_number
from leaderboards.protocols import PAPER_EPS
from leaderboards.spec import arch_text, dataset_name
from leaderboards.table import MEANINGS, PRINTED, REPRODUCED, SMALL, Number


class Axis(NamedTuple):
    """A number to plot: its column, whether small values are good, and its decimals."""

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


def printed_points() -> pd.DataFrame:
    """Every printed row that has at least one number of ``AXES``; accuracies in percent."""
    rows: dict[tuple[str, ...], dict[str, Number]] = defaultdict(dict)
    names = ("table", "task", "dataset", "method", "teacher", "student_or_arch", "augmentation")
    for line in printed_lines():
        field = PRINTED_METRICS.get(line["metric"])
        if field and not is_difference(line) and "panel" not in line:
            # Other remarks, such as the machine of a time, do not distinguish rows.
            settings = [part for part in line["setting"].split(";") if "=" in part]
            rows[*(line[name] for name in names), *settings][field] = printed_number(line)
    points = [
        {
            "name": method,
            "arch": arch_text(arch, teacher or None),
            "dataset": dataset_name(dataset),
            "augmentation": augmentation,
            "protocol": _printed_protocol(int(table), task),
            "source": SOURCES[PRINTED],
            "where": f"Table {table}",
        }
        | {name: value for field, n in numbers.items() for name, value in _values(field, n)}
        for (table, task, dataset, method, teacher, arch, augmentation, *_), numbers in rows.items()
    ]
    return pd.DataFrame(points).reindex(columns=COLUMNS + NUMBERS)


def _values(field: str, number: Number) -> list[tuple[str, float]]:
    ends = zip((f"{field}_low", f"{field}_high"), number.interval or (), strict=False)
    return [(field, number.value), *ends]


def _printed_protocol(table: int, task: str) -> str:
    facts: dict[str, Any] = {"attacks": "", "n": TABLES[table].images}
    if task != "kd":
        facts |= {"attacks": ",".join(STANDARD_ATTACKS), "norm": "Linf", "eps": PAPER_EPS}
    return protocol_text(facts)


def run_points(runs: pd.DataFrame) -> pd.DataFrame:
    """The evaluated runs of ``queries.runs`` as points, without partial ones."""
    runs = runs[~runs["partial"].astype(bool) & runs["clean"].notna()]
    points = pd.DataFrame(
        {
            "name": runs["title"],
            "arch": [
                arch_text(arch, None if pd.isna(teacher) else teacher)
                for arch, teacher in zip(runs["arch"].fillna(""), runs["teacher"], strict=True)
            ],
            "dataset": runs["dataset"],
            "augmentation": "",
            "protocol": protocol_names(runs),
            "source": runs["scale"].map({"paper": SOURCES[REPRODUCED], "small": SOURCES[SMALL]}),
            "where": runs["run_id"],
            "page": "run?run=" + runs["run_id"],
            "aa": 100 * runs["aa"],
            "robust": (100 * runs["robust"]).where(runs["attacks"] != ""),
            "clean": 100 * runs["clean"],
            "sec_per_iter": runs["sec_per_iter"],
            "hours": runs["train_seconds"] / 3600,
        }
    )
    for end in ("low", "high"):
        points[f"clean_{end}"] = 100 * runs[f"clean_{end}"]
        # AutoAttack accuracy is what the last of its attacks leaves.
        points[f"aa_{end}"] = points[f"robust_{end}"] = 100 * runs[f"robust_{end}"]
    return points.reindex(columns=COLUMNS + NUMBERS)


def protocols(points: pd.DataFrame) -> list[str]:
    """The protocols of some points, first the one with most points that have two numbers."""
    numbers = points[[axis.field for axis in AXES.values()]].notna().sum(axis=1)
    counts = points["protocol"][numbers > 1].value_counts()
    return list(dict.fromkeys([*counts.index, *points["protocol"]]))


def steps(front: pd.DataFrame, points: pd.DataFrame, *, x_lower: bool) -> pd.DataFrame:
    """The line of a Pareto front, high y being good, extended to the edges of what it beats.

    ``front`` is sorted by ``x``; ``points`` are all that are drawn.
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
