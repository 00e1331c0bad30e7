"""Finished chunks on disk: whole, checked, and true to the evaluation they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from harness.store.files import replacing
from harness.store.verdicts import VERDICT_SCHEMA

FACTS_KEY = b"chunk"


@dataclass(frozen=True)
class Expected:
    """What the file of a chunk must hold.

    Attributes:
        evaluation_id: the evaluation.
        number: the chunk.
        rows: rows of the test split, int64 [N].
        labels: int64 [N].
        adversarial: ``no``, or the type in which adversarial images lie beside it.
    """

    evaluation_id: str
    number: int
    rows: Tensor
    labels: Tensor
    adversarial: str


def adversarial_path(verdicts: Path) -> Path:
    """Where a chunk's adversarial images lie, from the path of its verdicts."""
    return verdicts.with_suffix(".adversarial.npy")


def write_chunk(
    path: Path, verdicts: pa.Table, facts: dict[str, Any], adversarial: np.ndarray[Any, Any] | None
) -> None:
    """Write a chunk; the verdicts come last, and with them the chunk exists.

    Args:
        path: of the verdicts.
        verdicts: with ``VERDICT_SCHEMA``.
        facts: ready for JSON; kept inside the file of verdicts.
        adversarial: images to keep, if any.
    """
    if adversarial is not None:
        with replacing(adversarial_path(path)) as handle:
            np.save(handle, adversarial)
    table = verdicts.replace_schema_metadata({FACTS_KEY: json.dumps(facts)})
    with replacing(path) as handle:
        pq.write_table(table, handle, write_page_checksum=True)


def read_chunk(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """A chunk's verdicts and facts; raises if the file is damaged or is something else."""
    table = pq.read_table(path, page_checksum_verification=True)
    facts = json.loads((table.schema.metadata or {})[FACTS_KEY])
    return table.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA), facts


def finished(path: Path, expected: Expected) -> bool:
    """Whether a chunk is there and whole; what is there but is not right is removed."""
    if not path.exists():
        return False
    try:
        verdicts, facts = read_chunk(path)
        right = (
            facts["evaluation_id"] == expected.evaluation_id
            and facts["chunk"] == expected.number
            and verdicts["index"].to_pylist() == expected.rows.tolist()
            and verdicts["label"].to_pylist() == expected.labels.tolist()
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        right = False
    if not right:
        path.unlink()
        return False
    return expected.adversarial == "no" or _has_images(adversarial_path(path), expected)


def _has_images(path: Path, expected: Expected) -> bool:
    if not path.exists():
        return False
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        return len(images) == len(expected.rows) and images.dtype == np.dtype(expected.adversarial)
    except Exception:
        # Where a file is damaged decides what NumPy raises: EOFError, SyntaxError, TokenError,
        # BadZipFile and more.
        path.unlink()
        return False
