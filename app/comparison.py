"""Texts and frames of a comparison of two models, from the numbers of ``analysis.paired``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from app.labels import stage_title
from harness.evaluation.analysis.comparable import Evaluated, by_one_protocol, protocol_key
from harness.evaluation.analysis.paired import Comparison, SeedsComparison, shared_correct
from harness.evaluation.analysis.sequential import running_difference
from harness.evaluation.analysis.statistics import PairedComparison
from harness.store.text import counted

# Points of the running difference; computing an interval takes some milliseconds.
RUNNING_POINTS = 20
ALPHA = 0.05

Row = dict[str, Any]


def by_run(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The evaluations of each run, in order, without those whose protocol no other run shares.

    Args:
        rows: as ``queries.measured`` returns them, newest first.
    """
    runs = defaultdict(set)
    for row in rows:
        runs[_key(row)].add(row["run_id"])
    found: dict[str, list[Row]] = {}
    for row in rows:
        if len(runs[_key(row)]) > 1:
            found.setdefault(row["run_id"], []).append(row)
    return found


def partners(rows: Mapping[str, Sequence[Row]], run_id: str) -> list[str]:
    """The other runs that share a protocol with a run; those ranked with it come first.

    Within both parts, further seeds of the same configuration come last.
    """
    own = rows[run_id]
    keys, ranked = {_key(row) for row in own}, {row["like_key"] for row in own}
    found = [
        other
        for other, theirs in rows.items()
        if other != run_id and any(_key(row) in keys for row in theirs)
    ]

    def order(other: str) -> tuple[bool, bool]:
        return (
            ranked.isdisjoint(row["like_key"] for row in rows[other]),
            rows[other][0]["seed_group"] == own[0]["seed_group"],
        )

    return sorted(found, key=order)


def common(rows: Mapping[str, Sequence[Row]], run_ids: Iterable[str]) -> list[Row] | None:
    """The evaluation of each run that `compare` would use; None if they share no protocol."""
    return by_one_protocol([rows[run_id] for run_id in run_ids], lambda row: row)


def _key(row: Row) -> tuple[Any, ...]:
    return row["dataset"], *protocol_key(row)


def p_text(p: float) -> str:
    """A p-value: ``p = 8e-5``, ``p = 0.013``."""
    if p >= 1e-3:
        return f"p = {p:.2g}"
    mantissa, _, exponent = f"{p:.0e}".partition("e")
    return f"p = {mantissa}e{int(exponent)}"


def points(difference: float, low: float, high: float) -> str:
    """A difference of accuracies in points, with its interval if it has one."""
    text = f"{100 * difference:+.2f}"
    return text if math.isnan(low) else f"{text} [{100 * low:+.2f}, {100 * high:+.2f}]"


def result_line(result: PairedComparison) -> str:
    """``A 22.80, B 17.00, A - B +5.80 [+2.97, +8.69], p = 8e-5``."""
    a, b = ((result.both + only) / result.n for only in (result.only_a, result.only_b))
    gap = points(result.difference, result.low, result.high)
    return f"A {100 * a:.2f}, B {100 * b:.2f}, A - B {gap}, {p_text(result.p_value)}"


def meaning(result: PairedComparison, population: int | None = None) -> str:
    """What the interval and the p-value say, and what they do not.

    Args:
        result: the comparison.
        population: size of the set from which the images were drawn at random, if they were.
    """
    split = max(result.only_a, result.only_b)
    tested = result.only_a + result.only_b
    if not tested:
        return f"Both are correct on the same of the {result.n:,} images: nothing is left to test."
    contains_zero = result.low <= 0 <= result.high
    verdict = (
        "The interval contains zero: these images do not show which of the two is better."
        if contains_zero
        else f"On these images {'A' if result.difference > 0 else 'B'} is correct more often."
    )
    p = p_text(result.p_value).removeprefix("p = ")
    counted = (
        f"{verdict} Exactly one of them is correct on {tested:,} of {result.n:,} images: A on "
        f"{result.only_a:,}, B on {result.only_b:,}."
    )
    if population is not None:
        return (
            f"{counted} The images were drawn at random from {population:,}. The 95% interval and "
            "the p-value (of no difference) refer to all of these, and remain valid whenever the "
            "evaluation stops. They say nothing about other trained models."
        )
    return (
        f"{counted} If each of these {tested:,} were equally likely to "
        f"go to A or B, a split at least as uneven as {split:,} to {tested - split:,} "
        f"would occur with probability {p} (exact McNemar test). This is not the probability "
        "that they are equally good. The 95% interval (Newcombe) is for these two trained models; "
        "it does not show how much another seed would change the difference."
    )


def forest(comparison: Comparison) -> pd.DataFrame:
    """One row per metric: ``title``, ``difference``, ``low``, ``high`` (points) and ``text``."""
    metrics = dict(comparison.metrics)
    last = next(reversed(metrics))
    if last in ("aa", "robust") and len(metrics) > 1:
        # It equals the accuracy after the last stage, which would be drawn twice.
        metrics = {name: each for name, each in metrics.items() if name != last}
    rows = [
        {
            "title": stage_title(name) if name == "clean" else f"after {stage_title(name)}",
            "difference": 100 * each.difference,
            "low": 100 * each.low,
            "high": 100 * each.high,
            "text": f"{points(each.difference, each.low, each.high)}, {p_text(each.p_value)}",
        }
        for name, each in metrics.items()
    ]
    return pd.DataFrame(rows)


def seeds_line(compared: SeedsComparison, name: str) -> str:
    """The result line over seeds: means, their difference, its interval and p-value."""
    a, b = (group.metrics[name] for group in compared.groups)
    means = ", ".join(
        f"{letter} {100 * each.mean:.2f}"
        + (f" ± {100 * each.std:.2f}" if each.n > 1 else "")
        + f" ({counted(each.n, 'seed')})"
        for letter, each in (("A", a), ("B", b))
    )
    (differences,) = compared.differences
    if name not in differences:
        return f"{means}, A - B {100 * (a.mean - b.mean):+.2f}"
    found = differences[name]
    p = "" if math.isnan(found.p_value) else f", {p_text(found.p_value)} (Welch's t)"
    return f"{means}, A - B {points(found.difference, found.low, found.high)}{p}"


def disagreements(a: Evaluated, b: Evaluated, name: str) -> pd.DataFrame:
    """The images on which exactly one is correct: ``index``, ``label``, ``correct``, ``a``, ``b``.

    ``a`` and ``b`` are the classes that each predicts for the image as attacked up to the stage
    ``name``. The one that is correct then predicts the label, even if a later stage breaks it; the
    other was broken by then, so its prediction is the stored one.
    """
    (correct_a, correct_b), _ = shared_correct((a, b))
    pairs = a.verdicts.merge(b.verdicts, on=["index", "label"], suffixes=("_a", "_b"))
    prediction = "clean_pred" if name == "clean" else "adv_pred"
    pairs = pairs.assign(
        correct=pd.Series(correct_a[name]).map({True: "A", False: "B"}).to_numpy(),
        a=pairs["label"].where(correct_a[name], pairs[f"{prediction}_a"]),
        b=pairs["label"].where(correct_b[name], pairs[f"{prediction}_b"]),
    )
    differing: pd.DataFrame = pairs[correct_a[name] != correct_b[name]]
    columns = ["index", "label", "correct", "a", "b"]
    return differing[columns].sort_values("index").reset_index(drop=True)


def running(a: Evaluated, b: Evaluated, name: str) -> pd.DataFrame:
    """The difference after ``n`` drawn images: ``n``, ``difference``, ``low``, ``high``.

    Differences and their intervals are in points; the intervals are valid simultaneously. Empty if
    the images were not drawn in random order.
    """
    if not (population := a.protocol.get("population")):
        return pd.DataFrame()
    (correct_a, correct_b), shared = shared_correct((a, b))
    counts = {math.ceil(shared * step / RUNNING_POINTS) for step in range(1, RUNNING_POINTS + 1)}
    history = [
        running_difference(correct_a[name][:n], correct_b[name][:n], population, ALPHA)
        for n in counts
    ]
    frame = pd.DataFrame(map(asdict, history)).sort_values("n", ignore_index=True)
    return frame.assign(**{end: 100 * frame[end] for end in ("difference", "low", "high")})
