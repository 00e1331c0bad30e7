"""Read a run directory as rows of the database's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
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
    RUNS,
    Column,
    Table,
    arrow_schema,
)
from harness.store.verdicts import read_verdicts

ARTIFACT_ENDINGS = {".pt", ".parquet", ".npz", ".npy"}

# (path, bytes, modified_ns) of a file to its SHA-256
KnownHashes = Mapping[tuple[str, int, int], str]
VerdictFile = tuple[Path, str, str | None]


@dataclass(frozen=True)
class Snapshot:
    """A run directory as rows.

    Attributes:
        run_id: the run.
        rows: table name to its rows, without ``verdicts``.
        verdict_files: finished evaluation to its verdict file, that file's SHA-256, and the digest
            of its verdicts, None if its record has none.
    """

    run_id: str
    rows: dict[str, pa.Table]
    verdict_files: dict[str, VerdictFile]

    def verdicts(self, evaluation_id: str) -> pa.Table:
        """Read the verdicts of a finished evaluation, and verify their digest if it is known.

        Raises:
            UserError: the file is damaged.
        """
        path, _, digest = self.verdict_files[evaluation_id]
        return read_verdicts(path, digest)


def snapshot(run: RunDirectory, known: KnownHashes | None = None) -> Snapshot:
    """Read a run directory.

    Args:
        run: the directory.
        known: hashes of files, so that unchanged files are not read again.

    Raises:
        UserError: one of its files is missing or damaged; the message names it.
    """
    record = run.record
    evaluations = {evaluation: evaluation.record for evaluation in run.evaluations()}
    artifacts = _artifacts(run, known or {})
    hashes = {row["path"]: row["sha256"] for row in artifacts}
    verdict_files = {}
    for evaluation, facts in evaluations.items():
        if facts.get("status") == "success":
            path = evaluation.verdicts_path
            relative = str(path.relative_to(run.results))
            if relative not in hashes:
                raise UserError(
                    f"{evaluation.record_path} says success, but {path} is missing: restore it, or "
                    "delete the evaluation's folder and evaluate again"
                )
            digest = facts.get("verdicts_digest")
            verdict_files[evaluation.evaluation_id] = (path, hashes[relative], digest)
    metrics = _metric_rows(run.record_path, record, run.run_id, None)
    for evaluation, facts in evaluations.items():
        metrics += _metric_rows(evaluation.record_path, facts, run.run_id, evaluation.evaluation_id)
    rows = {
        "runs": _typed(RUNS, [_run_row(record)], run.record_path),
        "evaluations": _typed(
            EVALUATIONS,
            [_evaluation_row(facts, verdict_files) for facts in evaluations.values()],
            run.evaluations_path,
        ),
        "metrics": _typed(METRICS, metrics, run.path),
        "epochs": _typed(EPOCHS, _epoch_rows(run), run.epochs_path),
        "artifacts": _typed(ARTIFACTS, artifacts, run.path),
    }
    return Snapshot(run.run_id, rows, verdict_files)


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
    """A hash that is equal for configurations that differ only in the seed or in cost.

    A value that is not a configuration of this release (a loaded model's source, or the settings of
    another release) is hashed without its seed: it may form too small a group, never too large.
    """
    try:
        payload = RunConfig.model_validate(config).identity_payload()
    except ValidationError:
        payload = config
    if isinstance(payload, dict):
        payload = {name: value for name, value in payload.items() if name != "seed"}
    return fingerprint(payload)


def _evaluation_row(facts: dict[str, Any], verdict_files: dict[str, VerdictFile]) -> dict[str, Any]:
    protocol = facts.get("protocol") or {}
    _, verdicts_sha256, _ = verdict_files.get(facts["evaluation_id"], (None, None, None))
    return {
        **protocol,
        **facts,
        "attacks": ",".join(protocol.get("attacks") or ()),
        "image_limit": protocol.get("limit"),
        "verdicts_sha256": verdicts_sha256,
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
    if len(set(numbers)) < len(epochs):
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
