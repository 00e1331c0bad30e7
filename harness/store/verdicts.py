"""Verdict files: one row an image, the same columns in every chunk and in the whole."""

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
    """Write verdicts, which have the columns of ``VERDICT_SCHEMA``, whole or not at all."""
    with replacing(path) as handle:
        pq.write_table(verdicts.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA), handle)


def verdicts_digest(verdicts: pa.Table) -> str:
    """The SHA-256 of verdicts' values: the same whoever wrote them to whatever file."""
    digest = hashlib.sha256()
    for name in VERDICT_SCHEMA.names:
        digest.update(json.dumps([name, verdicts[name].to_pylist()]).encode())
    return digest.hexdigest()


def read_verdicts(path: Path) -> pa.Table:
    """The verdicts in a Parquet file, with ``VERDICT_SCHEMA``.

    Raises:
        UserError: the file is missing or damaged, or is not a verdict file.
    """
    try:
        verdicts = pq.read_table(path).select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA)
        # Text that is no text is found only by looking at it.
        verdicts.validate(full=True)
        return verdicts
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(
            f"the verdicts {path} cannot be read ({error}): delete the file and repeat the "
            "evaluation, which goes on from its other chunks"
        ) from error
