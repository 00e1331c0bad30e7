"""A chunk's file: of another chunk, or with damaged images, it is as if it was not there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from harness.evaluation.attack.chunk import Chunk, adversarial_path, is_finished, write_chunk
from harness.store.verdicts import VERDICT_SCHEMA

ROWS = torch.arange(3)
CHUNK = Chunk(0, 0, ROWS, ROWS, torch.zeros(3, dtype=torch.int64))


@pytest.fixture
def chunk(tmp_path: Path) -> Path:
    """A finished chunk with its images."""
    columns: dict[str, list[Any]] = {name: [None] * 3 for name in VERDICT_SCHEMA.names}
    columns |= {"index": [0, 1, 2], "label": [0] * 3}
    for field in VERDICT_SCHEMA:
        if columns[field.name][0] is None and not field.nullable:
            columns[field.name] = [0] * 3
    verdicts = pa.Table.from_pydict(columns, schema=VERDICT_SCHEMA)
    path = tmp_path / "00000.parquet"
    write_chunk(path, verdicts, {"evaluation_id": "e", "chunk": 0}, np.zeros((3, 1, 2, 2), "f4"))
    assert is_finished(path, CHUNK, "e", "float32")
    return path


def npy(shape: str) -> bytes:
    """The header of float32 images of that shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


DAMAGED = {
    "empty": b"",
    "cut in the magic": b"\x93NUM",
    "cut in the header": npy("(3, 1, 2, 2)")[:40],
    "an open bracket": npy("(3, 1, 2, 2 "),
    "no images": npy("(3, 1, 2, 2)"),
    "a negative size": npy("(3, -1, 2, 2)"),
    "one number": npy("()") + bytes(4),
    "an archive": b"PK\x03\x04",
    "zeros": bytes(176),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_chunk_with_damaged_images_is_not_finished(name, chunk):
    adversarial_path(chunk).write_bytes(DAMAGED[name])
    assert not is_finished(chunk, CHUNK, "e", "float32")
    assert not adversarial_path(chunk).exists()
    # The verdicts alone are whole.
    assert is_finished(chunk, CHUNK, "e", "no")


OTHERS = {
    "evaluation": ("other", CHUNK),
    "number": ("e", replace(CHUNK, number=1)),
    "rows": ("e", replace(CHUNK, rows=torch.tensor([0, 1, 3]))),
    "order": ("e", replace(CHUNK, rows=torch.tensor([0, 2, 1]))),
    "labels": ("e", replace(CHUNK, labels=torch.tensor([0, 0, 1]))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_chunk_is_not_this_one_and_is_removed(name, chunk):
    evaluation_id, other = OTHERS[name]
    assert not is_finished(chunk, other, evaluation_id, "no")
    assert not chunk.exists()
