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


def read_verdicts(path: Path) -> pa.Table:
    """Read a verdict file.

    Raises:
        UserError: it is missing, damaged, or not a verdict file.
    """
    try:
        verdicts = pq.read_table(path).select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA)
        # Invalid text is found by a full validation only.
        verdicts.validate(full=True)
        return verdicts
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(
            f"the verdicts {path} cannot be read ({error}): delete the file and repeat the "
            "evaluation, which continues from its other chunks"
        ) from error
