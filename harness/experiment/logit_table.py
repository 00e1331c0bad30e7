"""A teacher's logits for every view of every training image, stored on disk.

A random crop with p pixels of border and a flip have 2 (2p + 1)^2 outcomes, 162 for p = 4. A
network in eval mode computes the logits of each one once for all epochs, students and methods.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.errors import UserError
from harness.store.files import file_lock, make_folder, read_json, write_json_atomic

FORMAT = "divergence-bench teacher logits 1"
Array = npt.NDArray[Any]


class LogitTable:
    """Rows of logits, written on demand and shared by any number of processes.

    Each row has a checksum of its values and its number. A row that was never written, was left
    half written by a killed process or another writer, or was damaged on disk does not match its
    checksum; it counts as missing and is written again. Writes therefore need neither a lock nor
    an order.

    Args:
        folder: the table's folder, which may not exist yet. All space is reserved at once, so that
            a disk that fills up later does not stop a training run.
        rows: number of rows, images times views.
        num_classes: C.
        dtype: ``float32`` or ``float16``.

    Raises:
        UserError: the disk has too little space for it, or the folder holds another table.
    """

    def __init__(self, folder: Path, rows: int, num_classes: int, dtype: str = "float32") -> None:
        """See the class."""
        self.folder = folder
        described = {"format": FORMAT, "rows": rows, "classes": num_classes, "dtype": dtype}
        make_folder(folder)
        with file_lock(folder / "table.lock", wait_s=-1, busy=""):
            self._check(described)
            self._check_room(rows, num_classes, dtype)
            for name, kind, width in self._files(num_classes, dtype):
                _reserve(folder / name, rows * width * np.dtype(kind).itemsize)
            write_json_atomic(described, folder / "table.json")
        arrays = [
            np.memmap(folder / name, dtype=kind, mode="r+", shape=(rows, width))
            for name, kind, width in self._files(num_classes, dtype)
        ]
        self._logits: Array = arrays[0]
        self._checksums: Array = arrays[1][:, 0]
        words = num_classes * np.dtype(dtype).itemsize // 2
        # Odd multipliers keep every bit of a word.
        self._multipliers = np.random.default_rng(0).integers(2**64, size=words, dtype=np.uint64)
        self._multipliers |= np.uint64(1)

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits float32 [B, C] of rows [B], and which of them are valid, bool [B]."""
        numbers = rows.numpy()
        logits = self._logits[numbers]
        valid = self._checksums[numbers] == self._checksum(logits, numbers)
        return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(valid)

    def write(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Store the logits [B, C] of rows [B] and return them as ``read`` will."""
        numbers = rows.numpy()
        kept = logits.numpy().astype(self._logits.dtype)
        self._logits[numbers] = kept
        self._checksums[numbers] = self._checksum(kept, numbers)
        return torch.from_numpy(kept.astype(np.float32))

    def _checksum(self, logits: Array, numbers: Array) -> Array:
        """A multilinear hash of each row's 16-bit words and its number, never 0: uint32 [B]."""
        words = np.ascontiguousarray(logits).view(np.uint16).astype(np.uint64)
        mixed = (words * self._multipliers).sum(axis=1, dtype=np.uint64)
        mixed += (numbers.astype(np.uint64) + np.uint64(1)) * self._multipliers[0]
        checksums: Array = ((mixed >> np.uint64(32)) | np.uint64(1)).astype(np.uint32)
        return checksums

    def _files(self, num_classes: int, dtype: str) -> list[tuple[str, str, int]]:
        """Name, type and width of the two files."""
        return [("logits.bin", dtype, num_classes), ("checksums.bin", "uint32", 1)]

    def _check(self, described: dict[str, Any]) -> None:
        path = self.folder / "table.json"
        if path.exists() and (found := read_json(path)) != described:
            raise UserError(
                f"{self.folder} holds a different table of teacher logits ({json.dumps(found)}): "
                "delete that folder"
            )

    def _check_room(self, rows: int, num_classes: int, dtype: str) -> None:
        taken = sum(
            (self.folder / name).stat().st_blocks * 512
            for name, _, _ in self._files(num_classes, dtype)
            if (self.folder / name).exists()
        )
        needed = table_bytes(rows, num_classes, dtype) - taken
        free = free_bytes(self.folder)
        if needed > free:
            raise UserError(
                f"the table of teacher logits needs {gigabytes(needed)} in {self.folder}, which "
                f"has {gigabytes(free)} free: set teacher.logits=forward, or "
                "teacher.logits_dtype=float16 for half the size"
            )


def table_bytes(rows: int, num_classes: int, dtype: str) -> int:
    """The size of a table on disk."""
    return rows * (num_classes * np.dtype(dtype).itemsize + 4)


def free_bytes(folder: Path) -> int:
    """The free space on the disk of a folder, which may not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def gigabytes(count: int) -> str:
    """Format a number of bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.1f} MB"


def _reserve(path: Path, size: int) -> None:
    """Extend the file with zeros to at least ``size`` bytes."""
    with open(path, "ab") as handle:
        length = handle.tell()
        if length >= size:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), length, size - length)
            else:
                handle.truncate(size)
        except OSError as error:
            raise UserError(
                f"cannot reserve {gigabytes(size - length)} for {path} "
                f"({error.strerror or error}): free some space, or set teacher.logits=forward"
            ) from error
