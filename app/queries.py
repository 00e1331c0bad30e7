"""The pages' queries of the results database. Values are passed to SQL only as parameters.

Queries take a ``Database``, which opens a connection for each of them, and return frames or plain
values; accuracies are fractions in [0, 1]. Epochs of a running run that are not in the database yet
are read from the run's directory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config import AttackBudget
from harness.errors import UserError
from harness.evaluation.analysis.comparable import Evaluated
from harness.evaluation.analysis.curves import flags_of
from harness.store.database import Database
from harness.store.rundir import RunDirectory

VALIDATION_EPOCHS = 40

OWN_PROTOCOLS = "(SELECT run_id, config->'evaluation' AS own FROM runs)"

# A standard budget and the order of the file are not recorded.
STANDARD = {f"$.budget.{name}": value for name, value in AttackBudget().model_dump().items()}
STANDARD["$.order"] = "file"
AS_STANDARD = " AND ".join(
    f"coalesce(own->>'{path}', '{value}') = coalesce(protocol->>'{path}', '{value}')"
    for path, value in STANDARD.items()
)

# Puts a run's main evaluation first: the one under the run's own protocol, otherwise the one on the
# whole test set, with the most images, with the most attacks, the newest. A later evaluation under
# another protocol measures something else, so it does not replace the main one.
ORDER = f"""
    coalesce(
        array_to_string(CAST(own->'attacks' AS VARCHAR[]), ',') = e.attacks
        AND own->>'precision' = e.precision
        AND (e.attacks = '' OR (own->>'norm' = e.norm
                                AND abs(coalesce(own->>'$.eps[#-1]', own->>'eps')::DOUBLE
                                        - e.eps) < 1e-9
                                AND {AS_STANDARD})),
        false) DESC,
    coalesce(e.partial, false), e.n DESC NULLS LAST,
    CASE WHEN coalesce(e.attacks, '') = '' THEN 0 ELSE len(string_split(e.attacks, ',')) END DESC,
    e.finished_at DESC NULLS LAST, e.evaluation_id
"""

MAIN = f"""
main AS (
    SELECT e.* FROM finished_evaluations e JOIN {OWN_PROTOCOLS} USING (run_id)
         JOIN (SELECT run_id, evaluation_id, protocol FROM evaluations)
         USING (run_id, evaluation_id)
    QUALIFY row_number() OVER (PARTITION BY e.run_id ORDER BY {ORDER}) = 1
)
"""

TITLE = "coalesce(r.method_title, r.method, r.source->>'source', r.run_id)"

OVERVIEW = """
SELECT count(*) AS runs, max(coalesce(finished_at, started_at)) AS newest,
       arg_max_null(git_commit, coalesce(finished_at, started_at)) AS commit
FROM runs
"""

RUNS = f"""
WITH {MAIN}, chosen AS (
    SELECT r.*, {TITLE} AS title FROM runs r
    WHERE (len($status::VARCHAR[]) = 0 OR list_contains($status::VARCHAR[], r.status))
      AND (len($methods::VARCHAR[]) = 0 OR list_contains($methods::VARCHAR[], {TITLE}))
      AND (len($datasets::VARCHAR[]) = 0 OR list_contains($datasets::VARCHAR[], r.dataset))
      AND contains(lower(concat_ws(' ', r.run_id, {TITLE}, r.dataset, r.arch, r.recipe, r.teacher)),
                   $words)
), scored AS (
    SELECT n.run_id, n.evaluation_id, n.like_key, n.seed_group, n.generated_name, n.norm,
           n.eps, n.attacks, n.attack_version, n.precision, n.n, n.data_sha256, n.index_sha256,
           n.partial, n.scale,
           max(m.value) FILTER (m.name = 'clean') AS clean,
           max(m.low) FILTER (m.name = 'clean') AS clean_low,
           max(m.high) FILTER (m.name = 'clean') AS clean_high,
           max(m.value) FILTER (m.name = 'robust') AS robust,
           max(m.low) FILTER (m.name = 'robust') AS robust_low,
           max(m.high) FILTER (m.name = 'robust') AS robust_high,
           max(m.value) FILTER (m.name = 'aa') AS aa
    FROM main n JOIN metrics m USING (run_id, evaluation_id) GROUP BY ALL
), trained AS (
    SELECT run_id, max(value) FILTER (name = 'sec_per_iter') AS sec_per_iter,
           max(value) FILTER (name = 'train_seconds') AS train_seconds
    FROM metrics WHERE evaluation_id IS NULL GROUP BY run_id
), epoch_counts AS (
    SELECT run_id, count(*) AS epochs_done,
           list(coalesce(pgd_val, clean_val) ORDER BY epoch)[-{VALIDATION_EPOCHS}:] AS validation
    FROM epochs WHERE run_id IN (SELECT run_id FROM chosen) GROUP BY run_id
)
SELECT r.run_id, r.kind, r.status, r.title, r.dataset, r.arch, r.teacher, r.recipe, r.seed,
       r.selection, r.epochs_planned, r.device, r.started_at, r.git_dirty, r.error,
       w.epochs_done, w.validation,
       t.sec_per_iter, t.train_seconds, coalesce(s.scale, r.scale) AS scale,
       coalesce(s.partial, r.partial, false) AS partial, s.* EXCLUDE (run_id, scale, partial),
       count(*) OVER () AS found
FROM chosen r LEFT JOIN scored s USING (run_id) LEFT JOIN trained t USING (run_id)
     LEFT JOIN epoch_counts w USING (run_id)
ORDER BY r.started_at DESC NULLS LAST, r.run_id LIMIT $limit
"""

CHOICES = f"""
SELECT list(DISTINCT {TITLE}) AS methods, list(DISTINCT r.dataset) AS datasets FROM runs r
"""

# One row for each protocol, with the run and evaluation that finished last.
PROTOCOLS = """
SELECT like_key, dataset, scale, partial, any_value(norm) AS norm, any_value(eps) AS eps, attacks,
       any_value(attack_version) AS attack_version, n, precision,
       bool_or(selection = 'best-on-test') AS best_on_test,
       count(*) AS runs, max(finished_at) AS newest, arg_max(run_id, finished_at) AS run_id,
       arg_max(evaluation_id, finished_at) AS evaluation_id
FROM like_runs GROUP BY ALL ORDER BY partial, runs DESC, newest DESC, run_id
"""

LIKE_KEYS = """
SELECT run_id, like_key FROM like_runs WHERE list_contains($run_ids::VARCHAR[], run_id)
"""

RUN = f"SELECT r.*, {TITLE} AS title FROM runs r WHERE run_id = ?"

EVALUATIONS = f"""
SELECT e.* FROM evaluations e JOIN {OWN_PROTOCOLS} USING (run_id)
WHERE run_id = ? ORDER BY e.status <> 'success', {ORDER}
"""

METRICS = """
SELECT evaluation_id, name, value, n, low, high FROM metrics WHERE run_id = ?
"""

EPOCHS = "SELECT * FROM epochs WHERE run_id = ? ORDER BY epoch"

PER_CLASS = """
SELECT label, count(*) AS n, count(*) FILTER (broken_by IS DISTINCT FROM 'clean') AS clean,
       count(*) FILTER (broken_by IS NULL) AS robust
FROM verdicts WHERE run_id = ? AND evaluation_id = ? GROUP BY label ORDER BY label
"""

SAMPLES = """
SELECT index, label, clean_pred, broken_by, adv_pred, distance
FROM verdicts WHERE run_id = $run_id AND evaluation_id = $evaluation_id
  AND coalesce(broken_by, 'robust') = $broken_by
ORDER BY index LIMIT $limit
"""

BROKEN_BY = """
SELECT coalesce(broken_by, 'robust') AS broken_by, count(*) AS n
FROM verdicts WHERE run_id = ? AND evaluation_id = ? GROUP BY ALL ORDER BY n DESC
"""

# The end of a query of ``numbered`` rows: all rows of the newest runs, or only those of some runs.
NEWEST = """
SELECT * EXCLUDE (place), (SELECT count(DISTINCT run_id) FROM numbered) AS found FROM numbered
QUALIFY CASE WHEN len($only::VARCHAR[]) = 0 THEN min(place) OVER (PARTITION BY run_id) <= $limit
             ELSE list_contains($only::VARCHAR[], run_id) END
ORDER BY place
"""
MAX_COMPARABLE, MAX_MEASURED = 2000, 4000

COMPARABLE = f"""
WITH {MAIN}, numbered AS (
    SELECT n.run_id, n.title, n.dataset, n.arch, n.seed, n.scale, n.partial, n.evaluation_id,
           n.like_key, n.data_sha256, n.attacks, n.norm, n.eps, n.n, n.attack_version, n.precision,
           row_number() OVER (ORDER BY r.started_at DESC NULLS LAST, n.run_id) AS place
    FROM main n JOIN runs r USING (run_id)
)
{NEWEST}
"""

# Each run's newest evaluation under each protocol, runs and evaluations newest first.
MEASURED = f"""
WITH numbered AS (
    SELECT l.run_id, l.title, l.dataset, l.arch, l.seed, l.seed_group, l.evaluation_id, l.like_key,
           l.data_sha256, l.attacks, l.norm, l.eps, l.n, l.attack_version, l.precision, l.partial,
           row_number() OVER (ORDER BY r.started_at DESC NULLS LAST, l.run_id,
                              l.finished_at DESC NULLS LAST, l.evaluation_id) AS place
    FROM like_runs l JOIN runs r USING (run_id)
)
{NEWEST}
"""

VERDICTS = """
SELECT index, label, clean_pred, broken_by, adv_pred FROM verdicts
WHERE run_id = ? AND evaluation_id = ?
"""


def overview(database: Database) -> dict[str, Any]:
    """The number of runs, and the newest run's end (or start) and commit; None if unknown."""
    row = _record(database.query(OVERVIEW).iloc[0])
    return row | {"runs": int(row["runs"])}


def runs(
    database: Database,
    *,
    words: str = "",
    status: Sequence[str] = (),
    methods: Sequence[str] = (),
    datasets: Sequence[str] = (),
    limit: int = 50,
) -> pd.DataFrame:
    """The newest runs that match, with training costs and the main evaluation.

    ``found`` is the number of matching runs; ``validation`` has the accuracies measured after the
    last 40 epochs. An empty filter matches all runs.
    """
    lists = {"status": list(status), "methods": list(methods), "datasets": list(datasets)}
    return database.query(RUNS, lists | {"words": words.lower(), "limit": limit})


def with_running_epochs(runs: pd.DataFrame, results: Path) -> pd.DataFrame:
    """The frame of ``runs`` with up-to-date ``epochs_done`` and ``validation`` of running runs.

    The database is updated when a run starts and ends, the run's directory after each epoch.
    """
    if not (runs["status"] == "started").any():
        return runs
    done, validation = list(runs["epochs_done"]), list(runs["validation"])
    for place in range(len(runs)):
        if runs["status"].iloc[place] == "started":
            epochs = running_epochs(results, str(runs["run_id"].iloc[place]))
            if len(epochs) <= (0 if pd.isna(done[place]) else done[place]):
                continue
            done[place] = len(epochs)
            values = [_watched(each) for each in epochs[-VALIDATION_EPOCHS:]]
            validation[place] = [value for value in values if value is not None]
    return runs.assign(epochs_done=done, validation=pd.Series(validation, runs.index, dtype=object))


def _watched(epoch: dict[str, Any]) -> float | None:
    """An epoch's accuracy under PGD, or clean if it was not attacked; None if neither is known."""
    under_pgd = epoch.get("pgd_val")
    return epoch.get("clean_val") if under_pgd is None else under_pgd


def choices(database: Database) -> dict[str, list[str]]:
    """The values that the filters of runs can take."""
    row = database.query(CHOICES).iloc[0]
    return {
        name: [] if row[name] is None else sorted(value for value in row[name] if value is not None)
        for name in row.index
    }


def methods(database: Database) -> list[str]:
    """Registered names of the methods of all runs."""
    found = database.query("SELECT DISTINCT method FROM runs WHERE method IS NOT NULL")
    return [str(name) for name in found["method"]]


def protocols(database: Database) -> pd.DataFrame:
    """The protocols of all finished evaluations, each with the ``run_id`` of its newest run."""
    return database.query(PROTOCOLS)


def like_keys(database: Database, run_ids: Sequence[str]) -> dict[str, set[str]]:
    """The ``like_key`` of each run's finished evaluations; runs without one are left out."""
    found = database.query(LIKE_KEYS, {"run_ids": list(run_ids)})
    return {str(run_id): set(keys) for run_id, keys in found.groupby("run_id")["like_key"]}


def run(database: Database, run_id: str) -> dict[str, Any]:
    """One run's row, with JSON columns parsed and None for missing values.

    Raises:
        UserError: there is no such run.
    """
    found = database.query(RUN, [run_id])
    if found.empty:
        raise UserError(
            f"there is no run {run_id!r} in {database.path}: choose one on the Runs page, or "
            "rebuild the database from the run directories with `db rebuild`"
        )
    row = _record(found.iloc[0])
    for name in ("recipe_changes", "config", "config_passed", "source", "provenance"):
        row[name] = json.loads(row[name]) if row[name] else {}
    return row


def evaluations(database: Database, run_id: str) -> list[dict[str, Any]]:
    """A run's evaluations, finished ones first, with the main one at the top.

    Each has ``metrics`` by name, including the training costs, and ``flags``, one sentence each,
    including those of its robustness curve.
    """
    with database.reading():
        found = database.query(EVALUATIONS, [run_id])
        metrics = database.query(METRICS, [run_id])
        flags = flags_of(database, [run_id])
    rows = [_record(row) for _, row in found.iterrows()]
    for row in rows:
        own = metrics[metrics["evaluation_id"].fillna(row["evaluation_id"]) == row["evaluation_id"]]
        row["metrics"] = {line["name"]: _record(line) for _, line in own.iterrows()}
        row["flags"] = [f"{f['name']}: {f['detail']}" for f in flags[run_id, row["evaluation_id"]]]
    return rows


def epochs(database: Database, run_id: str) -> pd.DataFrame:
    """A run's finished epochs, in order."""
    return database.query(EPOCHS, [run_id])


def per_class(database: Database, run_id: str, evaluation_id: str) -> pd.DataFrame:
    """Images by label: all, those correct without an attack and those never broken."""
    return database.query(PER_CLASS, [run_id, evaluation_id])


def broken_by(database: Database, run_id: str, evaluation_id: str) -> pd.DataFrame:
    """How many images each stage broke: ``broken_by`` (clean, a stage, or robust) and ``n``."""
    return database.query(BROKEN_BY, [run_id, evaluation_id])


def samples(
    database: Database, run_id: str, evaluation_id: str, broken_by: str, limit: int
) -> pd.DataFrame:
    """The first images that a stage broke, by their row in the test set."""
    names = {"run_id": run_id, "evaluation_id": evaluation_id}
    return database.query(SAMPLES, names | {"broken_by": broken_by, "limit": limit})


def comparable(database: Database, only: Sequence[str] = ()) -> pd.DataFrame:
    """The newest 2,000 runs with a finished evaluation, or ``only`` these, each with its main one.

    ``found`` is the number of all runs with a finished evaluation.
    """
    return database.query(COMPARABLE, {"only": list(only), "limit": MAX_COMPARABLE})


def measured(database: Database, only: Sequence[str] = ()) -> pd.DataFrame:
    """The runs with the newest 4,000 evaluations, or ``only`` these runs.

    There is one row per run and protocol, with its ``like_key``; ``found`` is the number of all
    runs with a finished evaluation.
    """
    return database.query(MEASURED, {"only": list(only), "limit": MAX_MEASURED})


def evaluated(database: Database, run_id: str, evaluation_id: str) -> Evaluated:
    """An existing evaluation, ready to be compared, with its verdicts in the order drawn."""
    protocol = database.query(
        "SELECT protocol FROM evaluations WHERE run_id = ? AND evaluation_id = ?",
        [run_id, evaluation_id],
    )["protocol"].iloc[0]
    verdicts = database.query(VERDICTS, [run_id, evaluation_id])
    return Evaluated(run(database, run_id), evaluation_id, json.loads(protocol), verdicts)


def running_epochs(results: Path, run_id: str) -> list[dict[str, Any]]:
    """The records of a running run's finished epochs, from its directory."""
    try:
        return [record for record in RunDirectory(results, run_id).epochs() if record]
    except UserError:
        # The directory was moved, or a line is being written: show the database's rows.
        return []


def _record(row: pd.Series[Any]) -> dict[str, Any]:
    return {
        str(name): None if not isinstance(value, list | dict) and pd.isna(value) else value
        for name, value in row.items()
    }
