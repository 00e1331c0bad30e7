"""Paired differences between our runs, over shared seeds and shared test images."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence

import duckdb
import pandas as pd

from harness.evaluation.analysis.comparable import is_sequential
from harness.evaluation.analysis.statistics import newcombe_paired, seeds_summary
from harness.store.database import Database
from leaderboards.protocols import TIMES
from leaderboards.results import RunGroup
from leaderboards.table import Number, Row

PairKey = tuple[str, str, str, str]
Counts = tuple[int, int, int, int]

# Number of images for each pair: right in both, in the first only, in the second only, in neither.
COUNTS = """
WITH pairs AS (
    SELECT unnest($run_a) AS run_a, unnest($evaluation_a) AS evaluation_a,
           unnest($run_b) AS run_b, unnest($evaluation_b) AS evaluation_b
), chosen AS MATERIALIZED (
    SELECT run_id, evaluation_id, index, {right} AS ok FROM verdicts
    WHERE list_contains($run_a, run_id) OR list_contains($run_b, run_id)
)
SELECT p.run_a, p.evaluation_a, p.run_b, p.evaluation_b,
       count(*) FILTER (a.ok AND b.ok), count(*) FILTER (a.ok AND NOT b.ok),
       count(*) FILTER (b.ok AND NOT a.ok), count(*) FILTER (NOT a.ok AND NOT b.ok)
FROM pairs p
JOIN chosen a ON a.run_id = p.run_a AND a.evaluation_id = p.evaluation_a
JOIN chosen b ON b.run_id = p.run_b AND b.evaluation_id = p.evaluation_b AND b.index = a.index
GROUP BY ALL
"""
CHOSEN = """
SELECT run_id, evaluation_id, index, broken_by FROM verdicts
WHERE list_contains($runs::VARCHAR[], run_id)
"""
SURVIVES, CLEAN = "broken_by IS NULL", "broken_by IS DISTINCT FROM 'clean'"


def paired_difference(of: RunGroup, base: RunGroup, metric: str) -> Number | None:
    """Return the mean difference over shared seeds, in percentage points or seconds, unrounded.

    With two or more seeds it has Student's t interval. Sequential evaluations get no interval from
    their images, because that interval assumes a number of images fixed in advance. Return None if
    no known seed is shared, a group has a seed twice, or a run lacks the metric.
    """
    if metric not in of.metrics or metric not in base.metrics:
        return None
    sides = [{run["seed"]: run for run in group.runs} for group in (of, base)]
    if any(len(side) < len(group.runs) for side, group in zip(sides, (of, base), strict=True)):
        return None
    seeds = sorted(seed for seed in sides[0] if seed is not None and seed in sides[1])
    if not seeds:
        return None
    unit = 1.0 if metric in TIMES else 100.0
    runs = [(sides[0][seed], sides[1][seed]) for seed in seeds]
    values = [unit * (a["metrics"][metric].value - b["metrics"][metric].value) for a, b in runs]
    summary = seeds_summary(values)
    # Accuracies differ by at most 100 points.
    furthest = math.inf if metric in TIMES else 100.0
    several = len(values) > 1
    names = ", ".join(map(str, seeds))
    return Number(
        statistics.fmean(values),
        of.badge,
        low=max(summary.low, -furthest) if several else None,
        high=min(summary.high, furthest) if several else None,
        n=int(of["n"]) if metric not in TIMES else None,
        seeds=len(seeds),
        note=f"{of.method_name} minus {base.method_name}, over seed{'s' * several} {names}",
        run_ids=tuple(run["run_id"] for pair in runs for run in pair),
        difference=True,
        pairs=()
        if is_sequential(of["attack_version"])
        else tuple(
            (a["run_id"], a["evaluation_id"], b["run_id"], b["evaluation_id"]) for a, b in runs
        ),
    )


def with_intervals(
    rows: Sequence[Row], metrics: Mapping[str, str], *databases: Database
) -> list[Row]:
    """Return the rows with an interval from shared images added to each of our differences.

    The interval of a mean over seeds is at least as wide as the mean of its pairs' intervals.

    Args:
        rows: rows of a table.
        metrics: the metric of each column; only accuracies get an interval.
        databases: where the runs are stored; the runs of a pair may be in different databases.
    """
    wanted: dict[bool, set[PairKey]] = {True: set(), False: set()}
    for row in rows:
        for key, cell in row.cells.items():
            if cell.ours is not None and metrics.get(key) not in (None, *TIMES):
                wanted[metrics[key] == "clean"].update(cell.ours.pairs)
    counts = {
        clean: _counts(databases, pairs, CLEAN if clean else SURVIVES)
        for clean, pairs in wanted.items()
        if pairs
    }
    if not counts:
        return list(rows)
    found = []
    for row in rows:
        cells = dict(row.cells)
        for key, cell in row.cells.items():
            if cell.ours is not None and cell.ours.pairs and metrics.get(key) not in (None, *TIMES):
                known = counts[metrics[key] == "clean"]
                cells[key] = dataclasses.replace(cell, ours=_widened(cell.ours, known))
        found.append(dataclasses.replace(row, cells=cells))
    return found


def _counts(
    databases: Sequence[Database], pairs: Collection[PairKey], right: str
) -> dict[PairKey, Counts]:
    """Return the counts of each pair whose runs have verdicts, in one database or across two."""
    found: dict[PairKey, Counts] = {}
    for database in databases:
        if wanted := sorted(set(pairs) - set(found)):
            _, rows = database.fetch(COUNTS.format(right=right), _columns(wanted))
            found |= {tuple(row[:4]): tuple(row[4:]) for row in rows}
    wanted = sorted(set(pairs) - set(found))
    if not wanted or len(databases) < 2:
        return found
    runs = {"runs": sorted({run for pair in wanted for run in (pair[0], pair[2])})}
    frames = [database.query(CHOSEN, runs) for database in databases]
    verdicts = pd.concat(frames).drop_duplicates(["run_id", "evaluation_id", "index"])
    with duckdb.connect() as connection:
        connection.register("verdicts", verdicts)
        rows = connection.execute(COUNTS.format(right=right), _columns(wanted)).fetchall()
    return found | {tuple(row[:4]): tuple(row[4:]) for row in rows}


def _columns(pairs: Sequence[PairKey]) -> dict[str, list[str]]:
    names = ("run_a", "evaluation_a", "run_b", "evaluation_b")
    return dict(zip(names, map(list, zip(*pairs, strict=True)), strict=True))


def _widened(number: Number, counts: Mapping[PairKey, Counts]) -> Number:
    """Return a difference with the interval from its images; unchanged if a pair shares none."""
    tables = [counts.get(pair) for pair in number.pairs]
    if any(table is None or sum(table) == 0 for table in tables):
        return number
    ends = [newcombe_paired(*table) for table in tables if table is not None]
    low, high = (100 * statistics.fmean(end[side] for end in ends) for side in (0, 1))
    if number.low is not None and number.high is not None:
        low, high = min(low, number.low), max(high, number.high)
    return dataclasses.replace(number, low=low, high=high)
