"""Run directories, and files of published numbers, as rows of the database: read and stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
from pydantic import ValidationError

from harness.config import RunConfig, fingerprint
from harness.errors import UserError
from harness.store.files import file_sha256, without_nan
from harness.store.rundir import RunDirectory
from harness.store.schema import (
    ARTIFACTS,
    EPOCHS,
    EVALUATIONS,
    METRICS,
    REPORTED,
    RUNS,
    Column,
    Table,
    arrow_schema,
)

ARTIFACT_ENDINGS = {".pt", ".parquet", ".npz", ".npy"}

KnownHashes = Mapping[tuple[str, int, int], str]


@dataclass(frozen=True)
class Known:
    """What the database has stored of a run, so that unchanged files are not read again.

    Attributes:
        hashes: (path, bytes, modified_ns) of a file to its SHA-256.
        verdicts: evaluation to the SHA-256 of its verdict file and its record, as text.
    """

    hashes: KnownHashes = field(default_factory=dict)
    verdicts: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """A run directory as rows.

    Attributes:
        run_id: the run.
        rows: table name to its rows, without ``verdicts``.
        verdicts: finished evaluation to its verdicts, unless the database already has them.
        unchanged: the evaluations whose verdicts the database already has.
        damaged: folders of evaluations that were left out, and why.
    """

    run_id: str
    rows: dict[str, pa.Table]
    verdicts: dict[str, pa.Table]
    unchanged: frozenset[str]
    damaged: dict[Path, str]


def known_of(connection: duckdb.DuckDBPyConnection, run_id: str) -> Known:
    """What an open database has stored of a run."""
    sql = "SELECT path, bytes, modified_ns, sha256 FROM artifacts WHERE run_id = ?"
    rows = connection.execute(sql, [run_id]).fetchall()
    hashes = {(path, size, modified): sha256 for path, size, modified, sha256 in rows}
    sql = "SELECT evaluation_id, verdicts_sha256, record FROM evaluations WHERE run_id = ?"
    stored = connection.execute(sql, [run_id]).fetchall()
    return Known(hashes, {name: (sha256, record) for name, sha256, record in stored})


def no_rows(run_id: str) -> Snapshot:
    """The rows of a run that was deleted or moved away."""
    return Snapshot(run_id, {}, {}, frozenset(), {})


def snapshot(run: RunDirectory, known: Known | None = None) -> Snapshot:
    """Read a run directory, leaving out damaged evaluations.

    Raises:
        UserError: another file is missing or damaged; the message names it.
    """
    known = known or Known()
    record, artifacts = run.record, _artifacts(run, known.hashes)
    hashes = {row["path"]: row["sha256"] for row in artifacts}
    metrics = _metric_rows(run.record_path, record, run.run_id, None)
    evaluation_rows: list[dict[str, Any]] = []
    verdicts: dict[str, pa.Table] = {}
    unchanged, damaged = set(), {}
    for evaluation in run.evaluations():
        name = evaluation.evaluation_id
        sha256 = hashes.get(str(evaluation.verdicts_path.relative_to(run.results)))
        try:
            facts = evaluation.record
            row = _evaluation_row(facts, sha256)
            if row["verdicts_sha256"] and known.verdicts.get(name) == (sha256, row["record"]):
                unchanged.add(name)
            elif facts["status"] == "success":
                verdicts[name] = evaluation.verdicts()
            own = _metric_rows(evaluation.record_path, facts, run.run_id, name)
            for table, values in ((EVALUATIONS, [row]), (METRICS, own)):
                _typed(table, values, evaluation.record_path)
        except UserError as error:
            damaged[evaluation.path] = str(error)
            verdicts.pop(name, None)
        else:
            evaluation_rows.append(row)
            metrics += own
    rows = {
        "runs": _typed(RUNS, [_run_row(record)], run.record_path),
        "evaluations": _typed(EVALUATIONS, evaluation_rows, run.evaluations_path),
        "metrics": _typed(METRICS, metrics, run.path),
        "epochs": _typed(EPOCHS, _epoch_rows(run), run.epochs_path),
        "artifacts": _typed(ARTIFACTS, artifacts, run.path),
    }
    return Snapshot(run.run_id, rows, verdicts, frozenset(unchanged), damaged)


def _run_row(record: dict[str, Any]) -> dict[str, Any]:
    config = record.get("config") or {}
    return record | {
        "seed_group": seed_group(config or record.get("source") or record["run_id"]),
        "train_limit": _dig(config, "data", "train_limit"),
        "epochs_planned": _dig(config, "training", "epochs"),
        "git_commit": _dig(record, "provenance", "git", "commit"),
        "git_dirty": _dig(record, "provenance", "git", "dirty"),
        "device": _dig(record, "provenance", "device"),
        "record": json.dumps(record),
    }


def seed_group(config: Any) -> str:
    """A hash that is equal for configurations that differ only in the seed or in cost fields.

    A value that is not a configuration of this release (a loaded model's source, or the settings of
    another release) is hashed without its seed: its group may be too small, but never too large.
    """
    try:
        payload = RunConfig.model_validate(config).identity_payload()
    except ValidationError:
        payload = config
    if isinstance(payload, dict):
        payload = {name: value for name, value in payload.items() if name != "seed"}
    return fingerprint(payload)


def _evaluation_row(facts: dict[str, Any], verdicts_sha256: str | None) -> dict[str, Any]:
    protocol = facts.get("protocol") or {}
    return {
        **protocol,
        **facts,
        "attacks": ",".join(protocol.get("attacks") or ()),
        "image_limit": protocol.get("limit"),
        "verdicts_sha256": verdicts_sha256 if facts["status"] == "success" else None,
        "record": json.dumps(facts),
    }


def _metric_rows(
    source: Path, record: dict[str, Any], run_id: str, evaluation_id: str | None
) -> list[dict[str, Any]]:
    """Rows of metrics, each a number or an object with ``value``, ``n``, ``low`` and ``high``."""
    metrics = record.get("metrics") or {}
    if not isinstance(metrics, dict):
        raise UserError(f"metrics in {source} is not an object: restore the file")
    return [
        (metric if isinstance(metric, dict) else {"value": metric})
        | {"run_id": run_id, "evaluation_id": evaluation_id, "name": name}
        for name, metric in metrics.items()
    ]


def _epoch_rows(run: RunDirectory) -> list[dict[str, Any]]:
    epochs = run.epochs()
    numbers = [record.get("epoch") for record in epochs if isinstance(record, dict)]
    if len({number for number in numbers if isinstance(number, int)}) < len(epochs):
        raise UserError(f"{run.epochs_path} has a duplicate epoch or an invalid line: fix it")
    return [record | {"run_id": run.run_id} for record in epochs]


def _artifacts(run: RunDirectory, known: KnownHashes) -> list[dict[str, Any]]:
    """The artifacts in the run's folder and in its evaluations' folders."""
    rows = []
    for path in sorted([*run.path.glob("[!.]*"), *run.evaluations_path.glob("*/[!.]*")]):
        if path.suffix in ARTIFACT_ENDINGS and path.is_file():
            facts = path.stat()
            relative = str(path.relative_to(run.results))
            key = (relative, facts.st_size, facts.st_mtime_ns)
            rows.append(
                {
                    "run_id": run.run_id,
                    "kind": path.stem,
                    "path": relative,
                    "bytes": facts.st_size,
                    "modified_ns": facts.st_mtime_ns,
                    "sha256": known.get(key) or file_sha256(path),
                }
            )
    return rows


def _typed(table: Table, rows: list[dict[str, Any]], source: Path) -> pa.Table:
    """Rows with the table's types; other fields are dropped."""
    try:
        values = [{c.name: _sql_value(row.get(c.name), c) for c in table.columns} for row in rows]
        return pa.Table.from_pylist(values, schema=arrow_schema(table))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"a value in {source} has a wrong type ({error}): restore it") from error


def _sql_value(value: Any, column: Column) -> Any:
    if value is None:
        return None
    if column.kind == "JSON":
        return json.dumps(without_nan(value), sort_keys=True)
    if column.kind == "TIMESTAMP":
        return datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)
    return value


def _dig(record: Any, *names: str) -> Any:
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def read_reported(csv: Path) -> pa.Table:
    """A file's rows as in ``reported``; its column ``table`` becomes ``table_number``.

    Raises:
        UserError: the file is missing or invalid.
    """
    schema = arrow_schema(REPORTED)
    types = pacsv.ConvertOptions(
        column_types={**{field.name: field.type for field in schema}, "table": pa.int32()},
        strings_can_be_null=False,
    )
    try:
        printed = pacsv.read_csv(csv, convert_options=types)
        printed = printed.rename_columns({"table": "table_number"})
        numbers = pa.array(range(1, len(printed) + 1), pa.int32())
        printed = printed.append_column("row_number", numbers)
        absent = {"page": pa.nulls(len(printed), pa.int32())}
        absent["source"] = pa.nulls(len(printed), pa.string())
        absent["badge"] = pa.array(["P"] * len(printed), pa.string())
        for name, column in absent.items():
            if name not in printed.column_names:
                printed = printed.append_column(name, column)
        if (
            printed["badge"].combine_chunks().unique().null_count
            or len(printed["badge"].unique()) > 1
        ):
            raise KeyError("badge is not the same on every line")
        return printed.select(schema.names).cast(schema)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(
            f"{csv} is not a valid file of published numbers ({error}): restore it"
        ) from error


def store_rows(connection: duckdb.DuckDBPyConnection, rows: Snapshot) -> None:
    """Replace the rows of a run in one transaction, except those of damaged evaluations."""
    damaged = [folder.name for folder in rows.damaged]
    kept = {"evaluations": damaged, "metrics": damaged, "verdicts": [*damaged, *rows.unchanged]}
    with _transaction(connection):
        for name in ("runs", "epochs", "artifacts"):
            connection.execute(f"DELETE FROM {name} WHERE run_id = ?", [rows.run_id])
        for name, evaluations in kept.items():
            connection.execute(
                f"DELETE FROM {name} WHERE run_id = ? AND NOT "
                "list_contains(CAST(? AS VARCHAR[]), coalesce(evaluation_id, ''))",
                [rows.run_id, evaluations],
            )
        for name, table in rows.rows.items():
            _insert(connection, name, table)
        for evaluation_id, table in rows.verdicts.items():
            keys = {"run_id": rows.run_id, "evaluation_id": evaluation_id}
            for position, (name, value) in enumerate(keys.items()):
                column = pa.array([value] * len(table), pa.string())
                table = table.add_column(position, name, column)
            _insert(connection, "verdicts", table)


def store_reported(connection: duckdb.DuckDBPyConnection, printed: pa.Table, sha256: str) -> None:
    """Replace the published numbers of one badge, which a file of this hash holds."""
    badge = printed["badge"][0].as_py() if len(printed) else "P"
    name = "reported_sha256" if badge == "P" else f"reported_sha256/{badge}"
    with _transaction(connection):
        connection.execute("DELETE FROM reported WHERE coalesce(badge, 'P') = ?", [badge])
        _insert(connection, "reported", printed)
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, sha256])


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    connection.register("incoming", rows)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")
