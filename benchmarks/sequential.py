"""Simulate sequential evaluation: coverage, errors, and the number of images a decision takes.

With the project installed:

    python benchmarks/sequential.py --out docs/sequential.svg

The test sets of ``--population`` images are simulated, so accuracies and differences are known. An
interval covers if it contains the accuracy on the whole test set after every image but the last; a
decision is tested after each chunk of 250 images. For comparison, the table has the number of
images with which an ordinary McNemar test at 5% finds the difference with 80% probability; it is
fixed in advance and assumes that the difference is known (R. J. Connor, Biometrics 43 (1987)
207-211).

Then the stored verdicts of ``results/reference`` are replayed in random orders, and the decisions
are compared with the difference on all their images.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from harness.evaluation.analysis.sequential import DecisionRule, log_capital, running_difference
from harness.evaluation.analysis.statistics import compare_paired
from harness.store import exchange
from harness.store.database import Database

ACCURACIES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
DIFFERENCES = (0.0, 0.02, 0.05, 0.1)
# Share of the images on which exactly one of the two models is right.
DISCORDANT = 0.2
ALPHA, CHUNK = 0.05, 250
# Number of decisions repeated with intervals, as the harness makes them.
CHECKED = 5


def coverage(accuracy: float, population: int, trials: int, rng: np.random.Generator) -> float:
    """Return the share of evaluations whose interval always contains the accuracy."""
    values = (np.arange(population) < round(accuracy * population)).astype(float)
    held = 0
    for _ in range(trials):
        order = rng.permutation(values)
        sides = (log_capital(order, population, accuracy)[:-1],
                 log_capital(1 - order, population, 1 - accuracy)[:-1])  # fmt: skip
        held += bool(np.max(sides) < math.log(2 / ALPHA))
    return held / trials


def pair(difference: float, population: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two models with this difference; exactly one is right on DISCORDANT of the images."""
    kinds = np.arange(population)
    only_a = round(population * (DISCORDANT + difference) / 2)
    only_b = round(population * DISCORDANT) - only_a
    both = kinds >= population // 2
    return (kinds < only_a) | both, ((kinds >= only_a) & (kinds < only_a + only_b)) | both


def decided(
    a: NDArray[np.bool_], b: NDArray[np.bool_], rule: DecisionRule, chunk: int
) -> tuple[str | None, int]:
    """Return the decision on two models in the order of the images, and the images it took.

    It uses the capitals of four bets, which is faster than an interval after each chunk.
    """
    population, x = len(a), (a.astype(float) - b + 1) / 2
    ends = np.minimum(np.arange(chunk, population + chunk, chunk), population) - 1
    outside = 0.5 + (math.floor(rule.margin * population + 1e-9) + 1) / (2 * population)
    won = {
        "a": log_capital(x, population, 0.5)[ends],
        "b": log_capital(1 - x, population, 0.5)[ends],
        "equal": np.minimum(
            log_capital(1 - x, population, 1 - outside)[ends],
            log_capital(x, population, 1 - outside)[ends],
        ),
    }
    first = {
        name: int(np.argmax(capital >= math.log(2 / rule.alpha)))
        for name, capital in won.items()
        if (capital >= math.log(2 / rule.alpha)).any()
    }
    if not first:
        return None, population
    winner = min(first, key=lambda name: first[name])
    return winner, int(ends[first[winner]]) + 1


def decided_by_intervals(
    a: NDArray[np.bool_], b: NDArray[np.bool_], rule: DecisionRule, chunk: int
) -> tuple[str | None, int]:
    """Like ``decided``, but with intervals, as in the harness."""
    n = 0
    while n < len(a):
        n = min(n + chunk, len(a))
        found = running_difference(a[:n], b[:n], len(a), rule.alpha)
        if winner := rule.winner(found.low, found.high):
            return winner, n
    return None, n


def fixed(difference: float) -> int:
    """Return the number of images that an ordinary test at ALPHA needs for 80% power."""
    z_alpha, z_power = norm.ppf(1 - ALPHA / 2), norm.ppf(0.8)
    spread = z_alpha * math.sqrt(DISCORDANT) + z_power * math.sqrt(DISCORDANT - difference**2)
    return math.ceil((spread / difference) ** 2)


def simulated_decisions(population: int, trials: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return decisions on models whose difference is known."""
    rows = []
    for difference in DIFFERENCES:
        a, b = pair(difference, population)
        found = []
        for _ in range(trials):
            order = rng.permutation(population)
            found.append(decided(a[order], b[order], DecisionRule(ALPHA, 0.01), CHUNK))
            if len(found) <= CHECKED:
                again = decided_by_intervals(a[order], b[order], DecisionRule(ALPHA, 0.01), CHUNK)
                assert again == found[-1], (again, found[-1])
        winners = [winner for winner, _ in found]
        right = "equal" if difference == 0 else "a"
        rows.append({
            "difference": difference,
            "right": winners.count(right) / trials,
            "wrong": sum(winner not in (right, None) for winner in winners) / trials,
            "median images": int(np.median([n for _, n in found])),
            "fixed n": fixed(difference) if difference else None,
        })  # fmt: skip
    return pd.DataFrame(rows)


def replayed(folder: Path, pairs: int, orders: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return decisions on stored verdicts in random orders, compared with all images.

    Args:
        folder: exported results, one folder each.
        pairs: number of pairs of comparable runs to draw at random.
        orders: random orders per pair.
        rng: source of randomness.
    """
    with tempfile.TemporaryDirectory() as place:
        results = Path(place)
        for study in sorted(folder.iterdir()):
            if study.is_dir():
                exchange.import_(results, study)
        verdicts = Database(results).query(
            "SELECT l.like_key, l.run_id, l.title, v.index, v.broken_by IS NULL AS robust "
            "FROM like_runs l JOIN verdicts v USING (run_id, evaluation_id) ORDER BY v.index"
        )
    comparable = []
    for _, alike in verdicts.groupby("like_key"):
        robust = alike.pivot_table(index="index", columns="run_id", values="robust")
        comparable += [robust[list(two)] for two in itertools.combinations(robust.columns, 2)]
    drawn = rng.permutation(len(comparable))[:pairs]
    return pd.DataFrame([replayed_pair(comparable[number], orders, rng) for number in drawn])


def replayed_pair(robust: pd.DataFrame, orders: int, rng: np.random.Generator) -> dict[str, Any]:
    """Replay one pair; ``robust`` has a column per run and a row per image."""
    both = robust.dropna().astype(bool).to_numpy()
    whole = compare_paired(both[:, 0], both[:, 1])
    truth = whole.difference
    found = []
    for _ in range(orders):
        order = both[rng.permutation(len(both))]
        chunk = max(10, len(both) // 20)
        found.append(decided(order[:, 0], order[:, 1], DecisionRule(ALPHA, 0.01), chunk))
    right = [
        winner is None
        or (winner == "equal" and abs(truth) <= 0.01)
        or (winner == "a" and truth > 0)
        or (winner == "b" and truth < 0)
        for winner, _ in found
    ]
    return {
        "runs": " ".join(robust.columns),
        "images": len(both),
        "difference": truth,
        "p": whole.p_value,
        "not wrong": np.mean(right),
        "undecided": np.mean([winner is None for winner, _ in found]),
        "mean images": np.mean([n for _, n in found]),
    }


def by_difference(found: pd.DataFrame) -> pd.DataFrame:
    """Summarise pairs of runs in groups of similar differences."""
    found["points"] = pd.cut(100 * found["difference"].abs(), [0, 1, 3, 6, 100], right=False)
    found["share of images"] = found["mean images"] / found["images"]
    groups = found.groupby("points", observed=True)
    means = groups[["not wrong", "undecided", "share of images"]].mean()
    return means.assign(pairs=groups.size(), worst=groups["not wrong"].min())


def chart(covered: pd.DataFrame, decisions: pd.DataFrame) -> alt.HConcatChart:
    """Plot coverage by accuracy, and images needed by difference."""
    bars = alt.Chart(covered, title="Intervals that never miss").mark_line(point=True)
    left = bars.encode(
        x=alt.X("accuracy", title="accuracy on the whole test set"),
        y=alt.Y("coverage", scale=alt.Scale(domain=[0.9, 1]), title="share of evaluations"),
    )
    limit = alt.Chart(pd.DataFrame({"y": [1 - ALPHA]})).mark_rule(strokeDash=[4, 4]).encode(y="y")
    names = {"median images": "decide, median", "fixed n": "McNemar, 80% power"}
    long = decisions.dropna().rename(columns=names)
    long = long.melt("difference", list(names.values()), "test", "images")
    right = alt.Chart(long, title="Images until a decision").mark_line(point=True)
    encoded = right.encode(
        x=alt.X("difference", axis=alt.Axis(format="%"), title="difference of robust accuracy"),
        y=alt.Y("images", scale=alt.Scale(type="log"), title="images (log scale)"),
        color=alt.Color("test", title=None),
    )
    return alt.hconcat((left + limit).properties(width=280, height=200),
                       encoded.properties(width=280, height=200))  # fmt: skip


def main() -> None:
    """Simulate, replay, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--population", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--reference", type=Path, default=Path("results/reference"))
    parser.add_argument("--out", type=Path, help="SVG file of the figure")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    covered = pd.DataFrame({"accuracy": ACCURACIES})
    covered["coverage"] = [
        coverage(accuracy, given.population, given.trials, rng) for accuracy in ACCURACIES
    ]
    print(covered.to_string(index=False))
    decisions = simulated_decisions(given.population, given.trials, rng)
    print(decisions.to_string(index=False))
    print(by_difference(replayed(given.reference, given.pairs, given.orders, rng)).to_string())
    if given.out:
        chart(covered, decisions).save(str(given.out))


if __name__ == "__main__":
    main()
