"""Results as Parquet files, and back: every table, the records whole, the verdicts; no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UserError
from harness.store.database import DATABASE_NAME, Database
from harness.store.files import (
    file_sha256,
    read_json,
    replacing,
    write_json_atomic,
    write_jsonl_atomic,
)
from harness.store.rundir import RUNS_FOLDER, RunDirectory
from harness.store.sharing import Merged, merge, scratch
from harness.store.verdicts import verdicts_digest, write_verdicts

FORMAT = "divergence-bench results"
MANIFEST = "manifest.json"
TABLES = ("runs", "evaluations", "metrics", "epochs", "verdicts", "artifacts")

Tables = dict[str, pa.Table]


def export(results: Path, folder: Path) -> dict[str, int]:
    """Write the database's tables as Parquet; the rows of each table.

    The manifest, which has the hash of each file, comes last: an export that was cut short is
    refused by ``import_``. The same results give the same files.

    Raises:
        UserError: there is no database, or the folder cannot be written.
    """
    tables = Database(results).tables(TABLES)
    facts = {}
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        with replacing(path) as handle:
            pq.write_table(table, handle)
        facts[name] = {"rows": len(table), "sha256": file_sha256(path)}
    write_json_atomic({"format": FORMAT, "version": 1, "tables": facts}, folder / MANIFEST)
    return {name: len(table) for name, table in tables.items()}


def import_(results: Path, folder: Path) -> Merged:
    """Bring the runs of an export into a results folder, as ``merge`` does.

    Raises:
        UserError: the folder holds no export, or a file of it is not what was exported.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST} describes no exported results: choose another folder")
    tables = {}
    for name in TABLES:
        path = folder / f"{name}.parquet"
        if file_sha256(path) != manifest["tables"][name]["sha256"]:
            raise UserError(f"{path} is not the file that was exported: export or copy it again")
        tables[name] = pq.read_table(path)
    return _merge_tables(results, tables)


def merge_other(results: Path, other: Path) -> Merged:
    """Merge another results folder, or a database whose run directories are elsewhere.

    Raises:
        UserError: it is neither.
    """
    if other.is_dir():
        return merge(results, other)
    if other.name == DATABASE_NAME and (other.parent / RUNS_FOLDER).is_dir():
        return merge(results, other.parent)
    return _merge_tables(results, Database(other.parent, name=other.name).tables(TABLES))


def _merge_tables(results: Path, tables: Tables) -> Merged:
    with scratch(results) as folder:
        left_out = write_directories(tables, folder)
        merged = merge(results, folder)
    merged.left_out += left_out
    return merged


def write_directories(tables: Tables, results: Path) -> list[tuple[str, str]]:
    """Write run directories that hold what tables say; the runs that they cannot tell, and why."""
    (results / RUNS_FOLDER).mkdir(exist_ok=True)
    left_out = []
    for run_id, record in _rows(tables, "runs", "run_id, record"):
        evaluations = _rows(tables, "evaluations", "evaluation_id, record", run_id)
        if record is None or any(each is None for _, each in evaluations):
            why = "an earlier release stored it without its record: rebuild that database first"
            left_out.append((run_id, why))
            continue
        run = RunDirectory.create(results, run_id)
        write_jsonl_atomic(_epochs(tables, run_id), run.epochs_path)
        for evaluation_id, text in evaluations:
            evaluation = run.evaluation(evaluation_id)
            facts = json.loads(text)
            if facts["status"] == "success":
                verdicts = _select(
                    tables,
                    "verdicts",
                    "*",
                    "run_id = ? AND evaluation_id = ?",
                    run_id,
                    evaluation_id,
                ).sort_by("index")
                told = facts.get("verdicts_digest")
                if told is None or told == verdicts_digest(verdicts):
                    write_verdicts(verdicts, evaluation.verdicts_path)
            write_json_atomic(facts, evaluation.record_path)
        write_json_atomic(json.loads(record), run.record_path)
    return left_out


def _epochs(tables: Tables, run_id: str) -> list[dict[str, Any]]:
    rows = _select(tables, "epochs", "* EXCLUDE run_id", "run_id = ?", run_id).sort_by("epoch")
    return [row | {"parts": json.loads(row["parts"] or "{}")} for row in rows.to_pylist()]


def _rows(tables: Tables, name: str, columns: str, run_id: str | None = None) -> list[Any]:
    where, given = ("run_id = ?", [run_id]) if run_id else ("true", [])
    found = _select(tables, name, columns, where, *given).to_pylist()
    return [tuple(row.values()) for row in found]


def _select(tables: Tables, name: str, columns: str, where: str, *given: str) -> pa.Table:
    with duckdb.connect(":memory:") as connection:
        connection.register("source", tables[name])
        sql = f"SELECT {columns} FROM source WHERE {where}"
        return connection.sql(sql, params=given or None).to_arrow_table()
