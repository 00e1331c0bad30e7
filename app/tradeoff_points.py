"""Points for the trade-off charts: printed rows, published entries and runs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from app.components import records
from app.labels import SELECTION_WORDS, attack_texts, known
from harness.config import STANDARD_ATTACKS, parse_fraction
from leaderboards.paper import TABLES
from leaderboards.printed import PRINTED_METRICS, is_difference, printed_lines, printed_number
from leaderboards.protocols import PAPER_EPS
from leaderboards.published import board
from leaderboards.render.plots import pareto_front
from leaderboards.robustbench import BOARDS, THEIR_NAMES
from leaderboards.spec import arch_text, dataset_name
from leaderboards.table import MEANINGS, PRINTED, REPRODUCED, ROBUSTBENCH, SMALL, Number


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
# A legend has room only for the first part of a meaning.
SOURCES = {
    b: f"{b}: {MEANINGS[b].partition(';')[0]}" for b in (PRINTED, ROBUSTBENCH, REPRODUCED, SMALL)
}
# Kinds of training data beyond the training set; each has its own front.
ALONE, GENERATED, EXTRA = "training set alone", "generated images", "extra real images"
# RobustBench does not count generated images as extra data and does not list them.
NO_EXTRA = "training set, possibly with generated images (RobustBench)"
# The source of a loaded model does not say what it was trained on.
UNKNOWN = "training data unknown"
# Parts of method names that identify the loss. IKL comes first because "IKL " contains "KL ".
IKL = "IKL, GKL"
FAMILIES = {
    # The last one marks the paper's own entries on RobustBench.
    IKL: ("IKL", "GKL", "Cui2023Decoupled"),
    "KL, DKL": ("DKL", "KL "),
    "TRADES": ("TRADES",),
}
OTHER, BOARD = "other methods", "others on RobustBench"
COLUMNS = ["name", "arch", "dataset", "augmentation", "training_data", "family", "protocol"]
COLUMNS += ["source", "where", "page", "seeds", "note", "doubted", "best_on_test"]
COLUMNS += ["partial", "device"]
NUMBERS = ["aa", "aa_low", "aa_high", "clean", "clean_low", "clean_high", "robust", "robust_low"]
NUMBERS += ["robust_high", "sec_per_iter", "hours"]


def family_of(name: str) -> str:
    """The family of the loss, read from a method's name."""
    for family, signs in FAMILIES.items():
        if any(sign in f"{name} " for sign in signs):
            return family
    return OTHER


def printed_points() -> pd.DataFrame:
    """Every printed row that has at least one number of ``AXES``; accuracies in percent.

    A row that two tables print with the same numbers is one point.
    """
    rows: dict[tuple[str, ...], dict[str, Number]] = defaultdict(dict)
    names = ("table", "task", "dataset", "method", "teacher", "student_or_arch", "augmentation")
    for line in printed_lines():
        field = PRINTED_METRICS.get(line["metric"])
        if field and not is_difference(line) and "panel" not in line:
            # Other remarks, such as the machine used for a time, do not distinguish rows.
            settings = [part for part in line["setting"].split(";") if "=" in part]
            rows[*(line[name] for name in names), *settings][field] = printed_number(line)
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for (table, task, dataset, method, teacher, arch, augmentation, *_), numbers in rows.items():
        values = {k: v for field, n in numbers.items() for k, v in _values(field, n)}
        point = {
            "name": method,
            "arch": arch_text(arch, teacher or None),
            "dataset": dataset_name(dataset),
            "augmentation": augmentation,
            "training_data": GENERATED if "generated" in augmentation.lower() else ALONE,
            "family": family_of(method),
            "protocol": _printed_protocol(task),
            "source": SOURCES[PRINTED],
            "where": f"Table {table}",
            "note": f"n = {TABLES[int(table)].images:,}",
        }
        key = (point["dataset"], point["arch"], augmentation, *sorted(values.items()))
        if key in points and len(values) > 1:
            # The later row gives the name: the first one is named as an ablation.
            tables = f"{points[key]['where'].replace('Table ', 'Tables ')}, {table}"
            points[key] = point | values | {"where": tables}
        else:
            points[key if len(values) > 1 else (*key, len(points))] = point | values
    return _frame(list(points.values()))


def _values(field: str, number: Number) -> list[tuple[str, float]]:
    ends = zip((f"{field}_low", f"{field}_high"), number.interval or (), strict=False)
    return [(field, number.value), *ends]


def _printed_protocol(task: str) -> str:
    if task == "kd":
        return _protocol({"attacks": ""})
    facts = {"attacks": ",".join(STANDARD_ATTACKS), "norm": "Linf", "eps": PAPER_EPS}
    return _protocol(facts)


def _protocol(facts: Mapping[str, Any]) -> str:
    """The attack as text. The number of images is left to each point's note."""
    return ", ".join(attack_texts(facts))


def published_points(results: Path | None) -> pd.DataFrame:
    """The entries of RobustBench's boards: those shipped, or those imported into ``results``."""
    points = []
    for (dataset, norm), (eps, n) in BOARDS.items():
        facts = {"attacks": ",".join(STANDARD_ATTACKS), "norm": norm}
        protocol = _protocol(facts | {"eps": float(parse_fraction(eps))})
        for entry in board(THEIR_NAMES.get(dataset, dataset), eps, results, norm):
            family = family_of(entry.key)
            notes = [f"n = {n:,}"]
            notes += ["RobustBench calls it potentially unreliable"] * entry.unreliable
            if entry.external is not None:
                notes.append(f"the strongest known attack leaves {entry.external:.2f}")
            points.append(
                {
                    "name": entry.key + " ?" * entry.unreliable,
                    "arch": entry.arch,
                    "dataset": dataset,
                    "augmentation": "",
                    "training_data": EXTRA if entry.extra_data else NO_EXTRA,
                    "family": BOARD if family == OTHER else family,
                    "protocol": protocol,
                    "source": SOURCES[ROBUSTBENCH],
                    "where": entry.citation,
                    "note": "; ".join(notes),
                    "doubted": entry.unreliable,
                    "clean": entry.clean,
                    "aa": entry.aa,
                }
            )
    return _frame(points)


def run_points(runs: pd.DataFrame) -> pd.DataFrame:
    """The evaluated runs of ``queries.runs`` as points, one for all seeds of a configuration.

    Over several seeds, accuracies are means, with bounds one standard deviation away; for one seed,
    the bounds are its 95% interval.
    """
    groups: dict[tuple[Any, Any], list[dict[str, Any]]] = defaultdict(list)
    for run in records(runs[runs["clean"].notna()]):
        groups[run["seed_group"], run["like_key"]].append(run)
    return _frame([_run_point(own) for own in groups.values()])


def _run_point(own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    run = own[0]
    small = run["scale"] != "paper" or bool(run["partial"])
    best_on_test = run["selection"] == "best-on-test"
    devices = {_text(each["device"]) for each in own}
    generated = isinstance(run["generated_name"], str)
    data = UNKNOWN if run["kind"] == "loaded" else GENERATED if generated else ALONE
    point = {
        "name": run["title"],
        "arch": arch_text(_text(run["arch"]), _text(run["teacher"]) or None),
        "dataset": run["dataset"],
        "augmentation": run["generated_name"] if generated else "",
        "training_data": data,
        "family": family_of(str(run["title"])),
        "protocol": _protocol(run),
        "source": SOURCES[SMALL if small else REPRODUCED],
        "where": run["run_id"] + (f" and {len(own) - 1} more" if len(own) > 1 else ""),
        "page": f"run?run={run['run_id']}",
        "seeds": len(own),
        "best_on_test": best_on_test,
        "partial": bool(run["partial"]),
        "device": devices.pop() if len(devices) == 1 else "",
        "note": f"n = {int(run['n']):,}"
        + (f", mean ± std of {len(own)} seeds" if len(own) > 1 else "")
        + f", {SELECTION_WORDS['best-on-test']}" * best_on_test,
    }
    point |= _over_seeds("clean", own)
    if run["attacks"]:
        robust = _over_seeds("robust", own)
        point |= robust
        if not any(pd.isna(each["aa"]) for each in own):
            # AutoAttack accuracy is the accuracy after its last attack.
            point |= {name.replace("robust", "aa"): value for name, value in robust.items()}
    point["sec_per_iter"] = _mean(each["sec_per_iter"] for each in own)
    point["hours"] = _mean(each["train_seconds"] for each in own) / 3600
    return point


def _over_seeds(field: str, own: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean in percent, with its bounds."""
    values = [100 * float(run[field]) for run in own]
    mean = statistics.fmean(values)
    if len(own) == 1:
        low, high = (100 * own[0][f"{field}_{end}"] for end in ("low", "high"))
    else:
        # NaN if a run lacks the accuracy.
        deviation = float(np.std(values, ddof=1))
        low, high = mean - deviation, mean + deviation
    return {field: mean, f"{field}_low": low, f"{field}_high": high}


def _mean(values: Iterable[Any]) -> float:
    """The mean of the known values; NaN if none is known."""
    found = [float(value) for value in values if not pd.isna(value)]
    return statistics.fmean(found) if found else math.nan


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _frame(points: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(points).reindex(columns=COLUMNS + NUMBERS)
    return frame.astype(dict.fromkeys(NUMBERS, float))


def protocols(points: pd.DataFrame) -> list[str]:
    """The protocols of some points, sorted by the number of points with two numbers, most first.

    Published entries and small-scale runs only break ties: the page is about the paper's methods
    and hides small-scale runs by default.
    """
    numbers = points[[axis.field for axis in AXES.values()]].notna().sum(axis=1)
    least = points["source"].isin([SOURCES[ROBUSTBENCH], SOURCES[SMALL]])
    counts = points.assign(first=(numbers > 1) & ~least, able=numbers > 1)
    found = counts.groupby("protocol", sort=False)[["first", "able"]].sum()
    return [str(name) for name in found.sort_values(["first", "able"], ascending=False).index]


def fronts(points: pd.DataFrame, *, x_lower: bool, y_lower: bool) -> dict[str, pd.DataFrame]:
    """By training data, the points that no other with the same training data equals or beats.

    Small-scale runs are left out, since they are never ranked with published numbers, and so are
    numbers that their publisher doubts, unless there are no other points. Of the rest, runs whose
    epoch was chosen on test images are left out, unless there are no others. Partial runs are
    always left out. Times are compared only if all are known to be of one device.

    Args:
        points: with ``x``, ``y``, ``source``, ``doubted``, ``best_on_test``, ``partial``,
            ``device`` and ``training_data``.
        x_lower: whether small x is good; only times are.
        y_lower: whether small y is good; only times are.
    """
    doubted, partial = (points[name].map(known) for name in ("doubted", "partial"))
    whole = points[~partial]
    ranked = whole[(whole["source"] != SOURCES[SMALL]) & ~doubted[whole.index]]
    if ranked.empty:
        ranked = whole
    best_on_test = ranked["best_on_test"].map(known)
    if not best_on_test.all():
        ranked = ranked[~best_on_test]
    return {
        str(data): own.loc[
            pareto_front(
                list(zip(own["x"], own["y"], own.index, strict=True)),
                x_lower=x_lower,
                y_lower=y_lower,
            )
        ]
        for data, own in ranked.groupby("training_data", sort=False)
        if not (x_lower or y_lower) or _one_device(own)
    }


def _one_device(points: pd.DataFrame) -> bool:
    """Whether all points are known to be measured on the same device; printed ones are not."""
    devices = set(points["device"].map(_text))
    return len(devices) == 1 and "" not in devices


def near(points: pd.DataFrame) -> pd.Series[bool]:
    """Whether to draw each point: all but RobustBench's entries far below the other points.

    Those are undefended models, which would squeeze all others into one corner.

    Args:
        points: with ``x`` and ``y``, for which high is good.
    """
    published = points["source"] == SOURCES[ROBUSTBENCH]
    others = points[~published & (points["source"] != SOURCES[SMALL])]
    others = points if others.empty else others
    low = {name: 1.5 * others[name].min() - 0.5 * others[name].max() for name in ("x", "y")}
    kept: pd.Series[bool] = ~published | ((points["x"] >= low["x"]) & (points["y"] >= low["y"]))
    return kept


def labelled(points: pd.DataFrame, front: pd.Index[Any], size: tuple[int, int]) -> pd.Series[Any]:
    """Whether each point's name fits next to it; the most important names are placed first.

    Args:
        points: with ``x``, ``y``, ``short`` (the name shown) and ``family``.
        front: index of the points on a front.
        size: width and height of the plot in pixels.
    """
    width, height = size
    x, y = (_scaled(points[name]) for name in ("x", "y"))
    order = sorted(
        (i for i in points.index if points.loc[i, "family"] != BOARD or i in front),
        key=lambda i: (points.loc[i, "family"] != IKL, i not in front, -y[i]),
    )
    boxes: list[tuple[float, float, float, float]] = []
    shown = pd.Series(False, points.index)
    for index in order:
        left, top = x[index] * width + 8, (1 - y[index]) * height
        box = (left, top - 9, left + 6.5 * len(str(points.loc[index, "short"])), top + 9)
        if box[2] < 1.06 * width and not any(_overlap(box, other) for other in boxes):
            boxes.append(box)
            shown[index] = True
    return shown


def _scaled(values: pd.Series[Any]) -> pd.Series[Any]:
    reach = float(values.max() - values.min()) or 1.0
    return values.sub(values.min()).div(reach)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def steps(front: pd.DataFrame, points: pd.DataFrame, *, x_lower: bool) -> pd.DataFrame:
    """The line of a Pareto front whose high y is good, extended to the edges of what it beats.

    ``front`` is sorted by ``x``; ``points`` are all points drawn.
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
