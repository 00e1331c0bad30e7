"""The database's tables: the type and meaning of every column, and migration between versions.

Each meaning is stored in the database as the comment of its table or column.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from harness.errors import UserError, first_line


@dataclass(frozen=True)
class Column:
    """A column: its name, SQL type and meaning, and the schema version that added it.

    Later versions only add tables, or columns at a table's end; they remove and alter none. A
    column added to a table that older databases have can be neither a key nor NOT NULL.
    """

    name: str
    kind: str
    doc: str
    since: int = 1


@dataclass(frozen=True)
class Table:
    """A table: its name, what one row is, and its columns."""

    name: str
    doc: str
    columns: tuple[Column, ...]


RUN_KEY = Column("run_id", "VARCHAR NOT NULL", "the run, as in runs")
EVALUATION_KEY = Column("evaluation_id", "VARCHAR NOT NULL", "hash of protocol, images and weights")

RUNS = Table(
    "runs",
    "one model, trained here or loaded from outside",
    (
        Column("run_id", "VARCHAR PRIMARY KEY", "method, hash of the configuration; in runs/"),
        Column("kind", "VARCHAR", "trained or loaded"),
        Column("status", "VARCHAR NOT NULL", "started, success, error or cancelled"),
        Column("method", "VARCHAR", "registered name of the method; null for a loaded model"),
        Column("method_title", "VARCHAR", "name of the method as papers print it"),
        Column("task", "VARCHAR", "natural, adversarial or distillation"),
        Column("dataset", "VARCHAR", "registered name of the dataset"),
        Column("arch", "VARCHAR", "registered name of the network"),
        Column("teacher", "VARCHAR", "the teacher network of a distilled run"),
        Column("recipe", "VARCHAR", "recipe the configuration started from"),
        Column("recipe_changes", "JSON", "settings that differ from the recipe's, except the seed"),
        Column("scale", "VARCHAR", "paper, or small: not at the literature's scale"),
        Column("seed", "BIGINT", "seed of everything random in training"),
        Column("seed_group", "VARCHAR", "equal for runs that differ only in the seed"),
        Column("selection", "VARCHAR", "last, best-on-val or best-on-test: the epoch chosen"),
        Column("selected_epoch", "INTEGER", "the epoch whose weights are the result, from 1"),
        Column("partial", "BOOLEAN", "trained on part of the training set, or data incomplete"),
        Column("train_limit", "INTEGER", "images of the training set used; null is all"),
        Column("epochs_planned", "INTEGER", "epochs of the complete training run"),
        Column("config", "JSON", "the whole resolved configuration"),
        Column("config_passed", "JSON", "what the user typed"),
        Column("source", "JSON", "where a loaded model came from"),
        Column("provenance", "JSON", "commit, packages, device and flags of the training process"),
        Column("git_commit", "VARCHAR", "commit of the code; null outside a checkout"),
        Column("git_dirty", "BOOLEAN", "whether the code differed from that commit"),
        Column("device", "VARCHAR", "the device trained on, with its name"),
        Column("started_at", "TIMESTAMP", "UTC"),
        Column("finished_at", "TIMESTAMP", "UTC; null while running"),
        Column("wall_s", "DOUBLE", "wall-clock seconds of all its work, except killed processes"),
        Column("error", "VARCHAR", "why a run with status error ended"),
        Column("train_sha256", "VARCHAR", "hash of the training images and labels"),
        Column("test_sha256", "VARCHAR", "hash of the test images and labels"),
        Column("model_sha256", "VARCHAR", "hash of the model's weights"),
        Column("record", "VARCHAR", "the run's whole run.json", since=2),
    ),
)

EVALUATIONS = Table(
    "evaluations",
    "one run evaluated with one protocol",
    (
        RUN_KEY,
        EVALUATION_KEY,
        Column("status", "VARCHAR NOT NULL", "started, success, error or cancelled"),
        Column("norm", "VARCHAR", "norm of the threat model: Linf or L2"),
        Column("eps", "DOUBLE", "radius of the threat model, for images in [0, 1]"),
        Column("attacks", "VARCHAR", "comma-separated stages in order; empty is clean only"),
        Column("attack_version", "VARCHAR", "package and version of the attacks"),
        Column("n", "INTEGER", "images evaluated"),
        Column("image_limit", "INTEGER", "the requested limit; null is the whole test set"),
        Column("index_sha256", "VARCHAR", "hash of the evaluated rows of the test set"),
        Column("data_sha256", "VARCHAR", "hash of the test images and labels"),
        Column("model_sha256", "VARCHAR", "hash of the evaluated weights"),
        Column("chunk_size", "INTEGER", "images per seeded unit of work"),
        Column("seed", "BIGINT", "seed of the attacks"),
        Column("precision", "VARCHAR", "float32 or bf16"),
        Column("accelerate", "BOOLEAN", "a faster copy was attacked; verdicts are the model's own"),
        Column("partial", "BOOLEAN", "not the whole test set; never ranked"),
        Column("protocol", "JSON", "the whole protocol"),
        Column("flags", "JSON", "warnings to show with the number"),
        Column("provenance", "JSON", "as in runs, of the evaluating process"),
        Column("started_at", "TIMESTAMP", "UTC"),
        Column("finished_at", "TIMESTAMP", "UTC"),
        Column("wall_s", "DOUBLE", "seconds of its chunks, summed over processes"),
        Column("error", "VARCHAR", "why an evaluation with status error ended"),
        Column("verdicts_sha256", "VARCHAR", "hash of the verdict file whose rows are in verdicts"),
        Column("record", "VARCHAR", "the evaluation's whole evaluation.json", since=2),
    ),
)

METRICS = Table(
    "metrics",
    "one measured number of a run or of an evaluation",
    (
        RUN_KEY,
        Column("evaluation_id", "VARCHAR", "the evaluation; null for a number of the training"),
        Column("name", "VARCHAR NOT NULL", "clean, aa, accuracy after a stage, sec_per_iter ..."),
        Column("value", "DOUBLE", "accuracies are fractions in [0, 1]"),
        Column("n", "BIGINT", "number of observations behind the value"),
        Column("low", "DOUBLE", "lower end of the 95% interval"),
        Column("high", "DOUBLE", "upper end of the 95% interval"),
    ),
)

EPOCHS = Table(
    "epochs",
    "one epoch of training",
    (
        RUN_KEY,
        Column("epoch", "INTEGER NOT NULL", "from 1"),
        Column("lr", "DOUBLE", "learning rate"),
        Column("eps", "DOUBLE", "radius of the training attack; null without one"),
        Column("loss", "DOUBLE", "mean training loss"),
        Column("parts", "JSON", "mean of each named part of the loss"),
        Column("clean_val", "DOUBLE", "accuracy on validation or else test images, in [0, 1]"),
        Column("pgd_val", "DOUBLE", "accuracy on the same images under PGD, in [0, 1]"),
        Column("sec_per_iter", "DOUBLE", "median seconds of the epoch's optimiser steps"),
        Column("seconds", "DOUBLE", "seconds of the epoch's training"),
        Column("peak_memory_mb", "DOUBLE", "peak memory of GPU, or of process so far, in MiB"),
    ),
)

VERDICTS = Table(
    "verdicts",
    "one test image under one evaluation",
    (
        RUN_KEY,
        EVALUATION_KEY,
        Column("index", "BIGINT NOT NULL", "row of the test set, from 0"),
        Column("label", "INTEGER NOT NULL", "true class"),
        Column("clean_pred", "INTEGER", "class predicted for the clean image"),
        Column("broken_by", "VARCHAR", "clean (wrong without attack), a stage, or null if robust"),
        Column("target", "INTEGER", "class that a targeted stage aimed at; null otherwise"),
        Column("adv_pred", "INTEGER", "class predicted for the adversarial image"),
        Column("distance", "DOUBLE", "norm of the perturbation; 0 if robust"),
        Column("margin", "DOUBLE", "true logit minus the largest other, on the image judged last"),
    ),
)

REPORTED = Table(
    "reported",
    "one printed or published number; never measured here",
    (
        Column("row_number", "INTEGER NOT NULL", "place in the file of printed numbers, from 1"),
        Column("table_number", "INTEGER NOT NULL", "the table it is printed in; 0 is none"),
        Column("page", "INTEGER", "the page it is printed on, where known"),
        Column("dataset", "VARCHAR", "as printed"),
        Column("task", "VARCHAR", "at, kd or ablation"),
        Column("method", "VARCHAR", "as printed"),
        Column("citation", "VARCHAR", "reference numbers as printed"),
        Column("teacher", "VARCHAR", "teacher network as printed"),
        Column("student_or_arch", "VARCHAR", "network as printed"),
        Column("augmentation", "VARCHAR", "training data as printed"),
        Column("setting", "VARCHAR", "further name=value pairs joined by semicolons"),
        Column("metric", "VARCHAR NOT NULL", "clean, aa, apgd_ce, top1 (percent), sec_per_iter"),
        Column("value", "DOUBLE NOT NULL", "the printed number"),
        Column("std", "DOUBLE", "the printed deviation, if any"),
        Column("bold", "BOOLEAN", "printed in bold"),
        Column("underlined", "BOOLEAN", "printed underlined"),
        Column("note", "VARCHAR", "damage, corrections and contradictions, with their evidence"),
        Column("badge", "VARCHAR", "P printed, RB published by RobustBench; null is P", since=2),
        Column("source", "VARCHAR", "URL where it was published; null is the paper", since=2),
    ),
)

ARTIFACTS = Table(
    "artifacts",
    "one file written by a run",
    (
        RUN_KEY,
        Column("kind", "VARCHAR NOT NULL", "the file's name without suffix: model, verdicts ..."),
        Column("path", "VARCHAR NOT NULL", "relative to the results folder"),
        Column("bytes", "BIGINT", "its size"),
        Column("modified_ns", "BIGINT", "its modification time, nanoseconds since 1970"),
        Column("sha256", "VARCHAR", "hash of its bytes"),
    ),
)

META = Table(
    "meta",
    "facts about this database",
    (
        Column("name", "VARCHAR PRIMARY KEY", "schema_version; reported_sha256 (/badge if not P)"),
        Column("value", "VARCHAR NOT NULL", "its value"),
    ),
)

TABLES = {
    table.name: table
    for table in (META, RUNS, EVALUATIONS, METRICS, EPOCHS, VERDICTS, REPORTED, ARTIFACTS)
}


@dataclass(frozen=True)
class View:
    """A view: its name, what one row is, and its query."""

    name: str
    doc: str
    sql: str


# Rows of equal ``like_key`` have the same test images, attack, precision and scale. Without attacks
# the threat model does not matter. Choosing the epoch on the test images makes a number too good,
# so such rows are comparable only with each other.
FINISHED_EVALUATIONS = View(
    "finished_evaluations",
    "one finished evaluation and its run; rows of equal like_key can be compared and ranked; "
    "partial: trained or evaluated on part of the data, or with images that affect each other "
    "(flag batch-dependent), so of small scale and not ranked",
    """
WITH evaluated AS (
    SELECT r.run_id, coalesce(r.seed_group, r.run_id) AS seed_group, r.kind, r.status, r.method,
           coalesce(r.method_title, r.method, r.source->>'source', r.run_id) AS title,
           r.task, r.dataset, r.arch, r.teacher, r.recipe, r.recipe_changes, r.train_limit, r.seed,
           r.selection, r.epochs_planned, r.config->'params' AS params,
           CAST(r.config->'data'->>'val_size' AS BIGINT) AS val_size,
           r.config->'data'->>'generated_name' AS generated_name,
           coalesce(r.partial, false) OR coalesce(e.partial, false)
               OR coalesce(CAST(e.flags AS VARCHAR) LIKE '%"batch-dependent"%', false)
               AS is_partial,
           CASE WHEN r.scale = 'paper' AND NOT is_partial THEN 'paper' ELSE 'small' END AS scale_,
           e.evaluation_id, e.norm, e.eps, coalesce(e.attacks, '') AS attacks_, e.attack_version,
           e.n, e.index_sha256, e.data_sha256, e.precision, e.flags, e.finished_at
    FROM runs r JOIN evaluations e USING (run_id) WHERE e.status = 'success'
)
SELECT * RENAME (is_partial AS partial, scale_ AS scale, attacks_ AS attacks),
       concat(dataset, '|', data_sha256, '|', index_sha256, '|', n, '|', precision, '|', scale_,
              CASE WHEN selection = 'best-on-test' THEN '|best-on-test' ELSE '' END,
              '|', attacks_, CASE WHEN attacks_ <> '' THEN
                  concat('|', norm, '|', eps, '|', attack_version) END) AS like_key
FROM evaluated
""",
)
LIKE_RUNS = View(
    "like_runs",
    "the newest row of finished_evaluations for each run and protocol",
    """
SELECT * FROM finished_evaluations
QUALIFY row_number() OVER (
    PARTITION BY run_id, like_key ORDER BY finished_at DESC NULLS LAST, evaluation_id) = 1
""",
)
VIEWS = (FINISHED_EVALUATIONS, LIKE_RUNS)
_USES_VIEWS = re.compile("|".join([*(v.name for v in VIEWS), "show", "describe", "schema"]), re.I)

_ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
}


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow types of a table's columns."""
    return pa.schema(
        [(column.name, _ARROW_TYPES[column.kind.split()[0]]) for column in table.columns]
    )


def version_of(connection: duckdb.DuckDBPyConnection) -> int:
    """The schema version of an open database; 0 for an empty one.

    Raises:
        UserError: a newer release of this program wrote the database.
    """
    try:
        # All rows, since an unread one blocks the connection.
        rows = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchall()
        version = int(rows[0][0]) if rows else 0
    except duckdb.CatalogException:
        return 0
    except (duckdb.BinderException, ValueError) as error:
        raise UserError(
            f"the results database has no schema version ({first_line(error)}): rebuild it from "
            "the run directories"
        ) from error
    if version > newest_version():
        raise UserError(
            f"the results database has schema {version}, but this release knows schemas up to "
            f"{newest_version()}: update divergence-bench, or choose another results folder"
        )
    return version


def newest_version(tables: Iterable[Table] = TABLES.values()) -> int:
    """The schema version that this release writes."""
    return max(column.since for table in tables for column in table.columns)


def migration(version: int, tables: Iterable[Table]) -> list[str]:
    """The SQL that migrates from ``version - 1`` to ``version``: new tables and new columns."""
    sql = []
    for table in tables:
        new = [column for column in table.columns if column.since == version]
        if version == min(column.since for column in table.columns):
            columns = ", ".join(f'"{column.name}" {column.kind}' for column in new)
            sql.append(f"CREATE TABLE {table.name} ({columns})")
            sql.append(f"COMMENT ON TABLE {table.name} IS {_quoted(table.doc)}")
        else:
            sql += [f'ALTER TABLE {table.name} ADD COLUMN "{c.name}" {c.kind}' for c in new]
        sql += [f'COMMENT ON COLUMN {table.name}."{c.name}" IS {_quoted(c.doc)}' for c in new]
    return sql


def migrate(
    connection: duckdb.DuckDBPyConnection, tables: Collection[Table] = TABLES.values()
) -> None:
    """Migrate an open database to the newest schema; each version is one transaction."""
    for version in range(version_of(connection) + 1, newest_version(tables) + 1):
        connection.begin()
        for sql in migration(version, tables):
            connection.execute(sql)
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", [str(version)]
        )
        connection.commit()


def create_views(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Create ``VIEWS`` for one connection; they are not stored, so any database has them.

    This takes as long as a small query, so it is skipped if ``sql`` neither reads nor lists views.
    """
    if _USES_VIEWS.search(sql):
        for view in VIEWS:
            connection.execute(f"CREATE OR REPLACE TEMP VIEW {view.name} AS {view.sql}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
