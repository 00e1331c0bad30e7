"""Verdict files: one row per image, with the same columns for a chunk and an evaluation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UserError
from harness.store.files import replacing
from harness.store.schema import EVALUATION_KEY, RUN_KEY, VERDICTS, arrow_schema

_KEYS = (RUN_KEY.name, EVALUATION_KEY.name)
VERDICT_SCHEMA = pa.schema([field for field in arrow_schema(VERDICTS) if field.name not in _KEYS])


def write_verdicts(verdicts: pa.Table, path: Path) -> None:
    """Write verdicts with the columns of ``VERDICT_SCHEMA`` atomically."""
    with replacing(path) as handle:
        pq.write_table(verdicts.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA), handle)


def verdicts_digest(verdicts: pa.Table) -> str:
    """The SHA-256 of the values of verdicts, which does not depend on how a file encodes them."""
    digest = hashlib.sha256()
    for name in VERDICT_SCHEMA.names:
        digest.update(json.dumps([name, verdicts[name].to_pylist()]).encode())
    return digest.hexdigest()


def read_verdicts(path: Path, digest: str | None = None) -> pa.Table:
    """Read a verdict file and check it.

    Args:
        path: the file.
        digest: what ``verdicts_digest`` must give; None where the record has none.

    Raises:
        UserError: it is missing or damaged, is not a verdict file, or has another digest.
    """
    again = "delete the file and repeat the evaluation, which continues from its chunks"
    try:
        verdicts = pq.read_table(path).select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA)
        # Invalid text is found by a full validation only.
        verdicts.validate(full=True)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"the verdicts {path} cannot be read ({error}): {again}") from error
    if digest is not None and verdicts_digest(verdicts) != digest:
        raise UserError(
            f"the verdicts {path} are not those that were written (digest {digest[:12]}): {again}"
        )
    return verdicts
