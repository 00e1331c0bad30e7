"""Verdict files: one row per image, with the same columns for a chunk and an evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.store.files import DamagedFile, replacing
from harness.store.schema import EVALUATION_KEY, RUN_KEY, VERDICTS, arrow_schema

_KEYS = (RUN_KEY.name, EVALUATION_KEY.name)
VERDICT_SCHEMA = pa.schema([field for field in arrow_schema(VERDICTS) if field.name not in _KEYS])


def write_verdicts(verdicts: pa.Table, path: Path) -> None:
    """Write verdicts with the columns of ``VERDICT_SCHEMA`` atomically."""
    with replacing(path) as handle:
        pq.write_table(verdicts.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA), handle)


def verdicts_digest(verdicts: pa.Table) -> str:
    """The SHA-256 of the values of verdicts, independent of how a file encodes them."""
    digest = hashlib.sha256()
    for name in VERDICT_SCHEMA.names:
        digest.update(json.dumps([name, verdicts[name].to_pylist()]).encode())
    return digest.hexdigest()


def correct_after(
    broken_by: Iterable[str | None], attacks: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """Which images [N] are still classified correctly: ``clean``, and after each attack."""
    by_stage = np.array([by if isinstance(by, str) else "" for by in broken_by], dtype=str)
    correct, found = np.ones(len(by_stage), dtype=bool), {}
    for stage in ("clean", *attacks):
        correct = correct & (by_stage != stage)
        found[stage] = correct
    return found


def read_table(path: Path) -> tuple[pa.Table, dict[bytes, bytes]]:
    """The verdicts in a file of verdicts or of a chunk, and the file's metadata.

    Raises:
        OSError, pa.ArrowException, KeyError: it is missing, damaged, or not a file of verdicts.
    """
    table = pq.read_table(path, page_checksum_verification=True)
    verdicts = table.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA)
    # Only full validation finds invalid text.
    verdicts.validate(full=True)
    return verdicts, table.schema.metadata or {}


def read_verdicts(path: Path, record: Mapping[str, Any]) -> pa.Table:
    """Read the verdicts of a finished evaluation, and check them against its record.

    Their digest and the accuracies computed from them must equal the recorded ones, so that neither
    file can be altered alone. Evaluations of the first release, which have no digest, are not
    checked.

    Raises:
        DamagedFile: the file is missing, is not a verdict file, or contradicts the record.
    """
    again = "delete the file and repeat the evaluation, which continues from its chunks"
    try:
        verdicts, _ = read_table(path)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DamagedFile(f"the verdicts {path} cannot be read ({error}): {again}") from error
    digest = record.get("verdicts_digest")
    if digest is None:
        return verdicts
    if verdicts_digest(verdicts) != digest:
        raise DamagedFile(
            f"the verdicts {path} are not those that were written (digest {str(digest)[:12]}): "
            f"{again}"
        )
    n = record["protocol"]["n"]
    if len(verdicts) != n:
        raise DamagedFile(f"the verdicts {path} are of {len(verdicts)} images, not of {n}: {again}")
    correct = correct_after(verdicts["broken_by"].to_pylist(), record["protocol"]["attacks"])
    counts = {stage: int(right.sum()) for stage, right in correct.items()}
    counts["robust"] = verdicts["broken_by"].null_count
    for name, count in counts.items():
        recorded = record["metrics"].get(name, {}).get("value", count / n)
        if count != round(recorded * n):
            raise DamagedFile(
                f"the verdicts {path} say {count} of {n} for {name}, but the evaluation's record "
                f"says {recorded:.4f}: restore both files, or {again}"
            )
    return verdicts
