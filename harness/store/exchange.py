"""Export and import results as Parquet files: all tables, records and verdicts, but no weights."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import UserError
from harness.store.database import DATABASE_NAME, Database
from harness.store.files import (
    TEMPORARY_SUFFIX,
    file_sha256,
    make_folder,
    read_json,
    replacing,
    unreadable,
    write_json_atomic,
    write_jsonl_atomic,
)
from harness.store.rundir import RUNS_FOLDER, EvaluationDirectory, RunDirectory
from harness.store.sharing import Merged, merge
from harness.store.verdicts import verdicts_digest, write_verdicts

FORMAT = "divergence-bench results"
MANIFEST = "manifest.json"
TABLES = ("runs", "evaluations", "metrics", "epochs", "verdicts", "artifacts")

# Matches the folders of an absolute path in text or in JSON, but no part of a URL.
FOLDERS = r"""(^|[\s"'=:,(\[]|\\n)/(?:[^/\s"']+/)+"""

Tables = dict[str, pa.Table]


def export(results: Path, folder: Path) -> dict[str, int]:
    """Write the database's tables as Parquet files.

    Absolute paths are reduced to their last component, so that the files name no folder of this
    machine. The manifest with the hash of each file is written last, so that ``import_`` refuses an
    interrupted export. The same results give the same files.

    Returns:
        Table name to its number of rows.

    Raises:
        UserError: there is no database, or the folder cannot be written.
    """
    read = Database(results).tables(TABLES)
    tables = {name: _without_folders(table) for name, table in read.items()}
    facts = {}
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        # Splitting the bytes of floats and storing differences of 64-bit integers, both without
        # dictionaries, halves the size, mostly by the margins and indices of verdicts.
        floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        integers = [field.name for field in table.schema if pa.types.is_int64(field.type)]
        others = [name for name in table.column_names if name not in (*floats, *integers)]
        with replacing(path) as handle:
            pq.write_table(
                table,
                handle,
                compression="zstd",
                use_dictionary=others,
                use_byte_stream_split=floats,
                column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED"),
            )
        facts[name] = {"rows": len(table), "sha256": file_sha256(path)}
    write_json_atomic({"format": FORMAT, "version": 1, "tables": facts}, folder / MANIFEST)
    return {name: len(table) for name, table in tables.items()}


def _without_folders(table: pa.Table) -> pa.Table:
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = pc.replace_substring_regex(table[field.name], FOLDERS, r"\1")
            table = table.set_column(number, field, texts)
    return table


def import_(results: Path, folder: Path) -> Merged:
    """Merge the runs of an export into a results folder; see ``merge``.

    Raises:
        UserError: the folder holds no export, or one of its files has changed since.
    """
    if not (folder / MANIFEST).exists():
        raise UserError(f"{folder} holds no export, which has a {MANIFEST}: choose another folder")
    manifest = read_json(folder / MANIFEST)
    try:
        hashes = {name: manifest["tables"][name]["sha256"] for name in TABLES}
    except (TypeError, KeyError):
        hashes = {}
    if not hashes or manifest.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST} describes no exported results: choose another folder")
    tables = {}
    for name, sha256 in hashes.items():
        path = folder / f"{name}.parquet"
        if file_sha256(path) != sha256:
            raise UserError(f"{path} is not the file that was exported: export or copy it again")
        tables[name] = pq.read_table(path)
    return _merge_tables(results, tables)


def merge_other(results: Path, other: Path) -> Merged:
    """Merge another results folder, or a database without its run directories.

    Raises:
        UserError: ``other`` is neither.
    """
    if other.is_dir():
        return merge(results, other)
    if other.name == DATABASE_NAME and (other.parent / RUNS_FOLDER).is_dir():
        return merge(results, other.parent)
    if not _is_database(other):
        raise UserError(f"{other} is neither a results folder nor a results database: name one")
    return _merge_tables(results, Database(other.parent, name=other.name).tables(TABLES))


def _is_database(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            return handle.read(12)[8:] == b"DUCK"
    except OSError as error:
        raise unreadable(path, error) from error


def _merge_tables(results: Path, tables: Tables) -> Merged:
    make_folder(results)
    with TemporaryDirectory(TEMPORARY_SUFFIX, ".incoming.", results) as folder:
        left_out = write_directories(tables, Path(folder))
        merged = merge(results, Path(folder))
    merged.left_out.update(left_out)
    return merged


def write_directories(tables: Tables, results: Path) -> dict[str, str]:
    """Write the run directories that tables describe.

    Returns:
        The runs that the tables do not describe in full, and why.
    """
    make_folder(results / RUNS_FOLDER)
    evaluations, epochs = _by_run(tables["evaluations"]), _by_run(tables["epochs"])
    left_out = {}
    for row in tables["runs"].to_pylist():
        run_id = row["run_id"]
        if any(each["record"] is None for each in (row, *evaluations[run_id])):
            left_out[run_id] = (
                "an earlier release stored it without its record: rebuild that database first"
            )
            continue
        run = RunDirectory.create(results, run_id)
        parsed = [each | {"parts": json.loads(each["parts"] or "{}")} for each in epochs[run_id]]
        write_jsonl_atomic(sorted(parsed, key=lambda each: each["epoch"]), run.epochs_path)
        for each in evaluations[run_id]:
            evaluation = run.evaluation(each["evaluation_id"])
            _write_evaluation(evaluation, json.loads(each["record"]), run_id, tables["verdicts"])
        write_json_atomic(json.loads(row["record"]), run.record_path)
    return left_out


def _write_evaluation(
    evaluation: EvaluationDirectory, record: dict[str, Any], run_id: str, verdicts: pa.Table
) -> None:
    """Write the record, and verdicts that have its digest; ``merge`` leaves it out without them."""
    if record["status"] == "success":
        rows = (pc.field("run_id") == run_id) & (
            pc.field("evaluation_id") == evaluation.evaluation_id
        )
        own = verdicts.filter(rows)
        if record.get("verdicts_digest") in (None, verdicts_digest(own)):
            write_verdicts(own, evaluation.verdicts_path)
    write_json_atomic(record, evaluation.record_path)


def _by_run(table: pa.Table) -> defaultdict[str, list[dict[str, Any]]]:
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        rows[row.pop("run_id")].append(row)
    return rows
