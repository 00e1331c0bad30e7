"""Atomic writes, append-only logs, locks and hashes."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from harness.errors import UserError

TEMPORARY_SUFFIX = ".tmp"


class DamagedFile(UserError):
    """A file of results whose content is not what this program writes."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A writable file that replaces ``path`` when the block ends without an exception.

    Readers see the old file until then, even if the block fails or the process dies. The temporary
    file's name starts with a dot and ends in ``.tmp``, so globs do not find it.

    Raises:
        UserError: the folder cannot be written to.
    """
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    )
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_bytes_atomic(data: bytes | memoryview, path: Path) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as handle:
        handle.write(data)


def write_json_atomic(value: Any, path: Path) -> None:
    """Write indented JSON atomically; NaN and infinities are written as by ``json``."""
    write_bytes_atomic((json.dumps(value, indent=2) + "\n").encode(), path)


def write_torch_atomic(obj: Any, path: Path) -> None:
    """Write an object with ``torch.save`` atomically."""
    # Imported here so that commands that only read results start without torch.
    import torch

    # Through memory, since torch does not report a full disk clearly.
    content = io.BytesIO()
    torch.save(obj, content)
    write_bytes_atomic(content.getbuffer(), path)


def read_torch(path: Path) -> Any:
    """Read a file written by ``torch.save`` on the CPU, without running code that it may contain.

    The file's checksums are verified, which ``torch.load`` does not do: a changed byte would be a
    changed weight.

    Raises:
        Exception: any kind, if the file is damaged or holds anything but tensors and plain data.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise zipfile.BadZipFile(f"the checksum of {wrong} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def without_nan(value: Any) -> Any:
    """The value with None for NaN and infinities, which JSON does not have; tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list | tuple) else value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DamagedFile: it is not JSON.
        UserError: it cannot be read.
    """
    try:
        return json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(
            f"{path} is not valid JSON ({error}): restore it, or move its folder away"
        ) from error


def append_jsonl(record: Any, path: Path) -> None:
    """Append one line and sync it to disk; an incomplete last line is removed first."""
    line = (json.dumps(record) + "\n").encode()
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with open(path, "ab+") as handle:
            _cut_torn_line(handle)
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())
        if new:
            sync_folder(path.parent)


def append_text(text: str, path: Path) -> None:
    """Append text to a file, without syncing it."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(text)


def read_jsonl(path: Path) -> list[Any]:
    """Read a JSON-lines file; a missing file is empty.

    A last line without a newline was not completely written, and is dropped.

    Raises:
        DamagedFile: another line is not JSON.
        UserError: the file cannot be read.
    """
    if not path.exists():
        return []
    whole, newline, _torn = _read(path).rpartition(b"\n")
    if not newline:
        return []
    records = []
    for number, line in enumerate(whole.split(b"\n"), 1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DamagedFile(
                f"line {number} of {path} is not valid JSON ({error}): fix or remove that line"
            ) from error
    return records


def write_jsonl_atomic(records: list[Any], path: Path) -> None:
    """Write a JSON-lines file atomically."""
    write_bytes_atomic("".join(json.dumps(record) + "\n" for record in records).encode(), path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of dead processes, recursively; only for a folder's sole writer."""
    for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; ``UserError`` if that is impossible."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Raise ``UserError`` if ``make_folder`` would do so; nothing is written."""
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    with _writing(folder):
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def move_folder(folder: Path, target: Path) -> None:
    """Rename a folder on the same disk; ``UserError`` if that is impossible."""
    with _writing(target):
        os.replace(folder, target)
        sync_folder(target.parent)
        sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder and its contents; ``UserError`` if that is impossible."""
    with _writing(folder):
        shutil.rmtree(folder)


@contextmanager
def file_lock(path: Path, *, wait_s: float, busy: str) -> Iterator[None]:
    """Hold a file lock, which is released when the block ends or the process dies.

    Args:
        path: the lock file, created if it is missing.
        wait_s: how many seconds to wait for another holder; negative is forever.
        busy: the error message if the lock is still held then.

    Raises:
        UserError: another process holds the lock, or the file cannot be created.
    """
    lock = FileLock(path, poll_interval=0.01)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=wait_s)
        except Timeout as error:
            raise UserError(busy) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): make its folder writable, free "
            "space, or choose another results folder"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a file that cannot be read."""
    return UserError(
        f"cannot read {path} ({error.strerror or error}): check the path and its permissions"
    )


def _cut_torn_line(handle: BinaryIO) -> None:
    size = handle.seek(0, os.SEEK_END)
    if not size:
        return
    handle.seek(size - 1)
    if handle.read(1) != b"\n":
        handle.seek(0)
        handle.truncate(handle.read().rfind(b"\n") + 1)
