"""The runs that may stand in one table with a given run, gathered over seeds."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.evaluation.analysis.statistics import seeds_summary
from harness.store.database import Database
from leaderboards.ranking import Entry, Score, arch_text
from leaderboards.table import REPRODUCED, SMALL

Run = Mapping[str, Any]

# One row a run: the named evaluation, else the newest, of each run that has one like the given one.
# Without attacks the threat model says nothing.
LIKE = """
WITH measured AS (
    SELECT r.run_id, r.seed_group, coalesce(r.method_title, r.method, r.source->>'source') AS title,
           r.task, r.dataset, r.arch, r.teacher, r.recipe, r.recipe_changes, r.train_limit,
           r.selection, r.status,
           coalesce(r.partial, false) OR coalesce(e.partial, false) AS partial,
           CASE WHEN r.partial OR e.partial THEN 'small' ELSE r.scale END AS scale,
           e.evaluation_id, e.norm, e.eps, e.attacks, e.attack_version, e.n, e.index_sha256,
           e.data_sha256, e.precision, e.flags, e.finished_at
    FROM runs r JOIN evaluations e USING (run_id) WHERE e.status = 'success'
), own AS (
    SELECT * FROM measured WHERE run_id = $run_id
    ORDER BY evaluation_id = $evaluation_id DESC, finished_at DESC, evaluation_id LIMIT 1
)
SELECT m.* FROM measured m, own
WHERE (m.dataset, m.data_sha256, m.attacks, m.n, m.index_sha256, m.precision, m.scale)
      IS NOT DISTINCT FROM
      (own.dataset, own.data_sha256, own.attacks, own.n, own.index_sha256, own.precision, own.scale)
  AND (own.attacks = '' OR (m.norm, m.eps, m.attack_version)
      IS NOT DISTINCT FROM (own.norm, own.eps, own.attack_version))
  AND (m.run_id = own.run_id OR (m.status = 'success' AND (own.partial OR NOT m.partial)))
QUALIFY row_number() OVER (
    PARTITION BY m.run_id
    ORDER BY m.evaluation_id = own.evaluation_id DESC, m.finished_at DESC, m.evaluation_id) = 1
ORDER BY m.run_id
"""

METRICS = """
SELECT run_id, evaluation_id, name, value, low, high FROM metrics
WHERE list_contains($run_ids, run_id) AND value IS NOT NULL
"""


def like_runs(results: Path, run_id: str, evaluation_id: str | None) -> list[Run]:
    """The given run and those of the same scale and protocol, each with its ``scores`` by metric.

    Empty where the database has no finished evaluation of the run.
    """
    database = Database(results)
    runs = records(database, LIKE, {"run_id": run_id, "evaluation_id": evaluation_id})
    scores: dict[tuple[str, str | None], dict[str, Score]] = defaultdict(dict)
    for row in records(database, METRICS, {"run_ids": [run["run_id"] for run in runs]}):
        score = Score(row["value"], row["low"], row["high"])
        scores[row["run_id"], row["evaluation_id"]][row["name"]] = score
    return [
        run | {"scores": scores[run["run_id"], None] | scores[run["run_id"], run["evaluation_id"]]}
        for run in runs
    ]


def entries_of(runs: Sequence[Run], own_id: str) -> list[Entry]:
    """One entry a group of runs that differ in nothing but the seed."""
    groups: dict[tuple[str, bool], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["seed_group"] or run["run_id"], run["partial"]].append(run)
    names = names_of([group[0] for group in groups.values()])
    entries = []
    for name, group in zip(names, groups.values(), strict=True):
        first = group[0]
        run_ids = tuple(run["run_id"] for run in group)
        entries.append(
            Entry(
                name,
                arch_text(first["arch"] or "", first["teacher"]),
                REPRODUCED if first["scale"] == "paper" and not first["partial"] else SMALL,
                over_seeds([run["scores"] for run in group]),
                seeds=len(group),
                n=int(first["n"]),
                partial=first["partial"],
                own=own_id in run_ids,
                run_ids=run_ids,
                flags=flags_of(group),
            )
        )
    return entries


def flags_of(group: Sequence[Run]) -> tuple[str, ...]:
    """What makes a row's numbers doubtful, one sentence each, the same name only once."""
    found: dict[str, str] = {}
    for run in group:
        for flag in json.loads(run["flags"] or "[]"):
            found.setdefault(flag["name"], f"{flag['name']}: {flag['detail']}")
    return tuple(found.values())


def over_seeds(scores: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Mean and sample standard deviation of the metrics that all runs have; of one run, its own.

    Several runs get no ``low`` and ``high``: those of pooled images would leave out what differs
    between seeds. The interval of their mean is Student's, and at least as wide as that of one run:
    seeds share their test images, so two that agree know no more of other images than one.
    """
    if len(scores) == 1:
        return dict(scores[0])
    shared = [name for name in scores[0] if all(name in run for run in scores)]
    return {name: _over_seeds([run[name] for run in scores]) for name in shared}


def _over_seeds(scores: Sequence[Score]) -> Score:
    values = [score.value for score in scores]
    mean, seeds = statistics.fmean(values), seeds_summary(values)
    below = statistics.fmean(score.value - score.span[0] for score in scores)
    above = statistics.fmean(score.span[1] - score.value for score in scores)
    return Score(
        mean,
        std=statistics.stdev(values),
        mean_low=min(seeds.low, mean - below),
        mean_high=max(seeds.high, mean + above),
    )


def names_of(firsts: Sequence[Run]) -> list[str]:
    """A name for each group of runs that tells it from the others, as short as will do."""
    names = [_title(run) for run in firsts]
    for detail in (_recipe_text, lambda run: run["run_id"][-4:]):
        places = [
            (name, run["arch"], run["teacher"]) for name, run in zip(names, firsts, strict=True)
        ]
        names = [
            f"{name}, {detail(run)}" if places.count(place) > 1 and detail(run) else name
            for name, place, run in zip(names, places, firsts, strict=True)
        ]
    return names


def _title(run: Run) -> str:
    title = str(run["title"] or run["run_id"])
    if run["train_limit"]:
        title += f", {run['train_limit']:.0f} training images"
    return title + (", best on test" if run["selection"] == "best-on-test" else "")


def _recipe_text(run: Run) -> str:
    changes = json.loads(run["recipe_changes"] or "{}")
    changed = [f"{path.rpartition('.')[2]}={value}" for path, value in changes.items()]
    recipe = [run["recipe"]] if run["recipe"] not in (None, run["dataset"]) else []
    return ", ".join(recipe + changed)


def records(database: Database, sql: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """A query's rows, with None for what is missing."""
    frame = database.query(sql, params).astype(object)
    names = [str(name) for name in frame.columns]
    rows = frame.where(frame.notna(), None).to_numpy()
    return [dict(zip(names, row, strict=True)) for row in rows]
