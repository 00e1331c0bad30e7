"""Short connections to one DuckDB file that many processes share.

DuckDB lets one process write or many read, never both. So each connection is open for one query or
one transaction only. Writers queue for a file lock. A second file lock, the gate, stops new readers
while a writer waits for the current ones, which could otherwise keep it waiting forever. A reader
that still meets another program's lock tries again.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import duckdb

from harness.errors import UserError
from harness.store.files import file_lock, make_folder
from harness.store.schema import migrate, newest_version, version_of

# A query can read the database only: no files, Python variables or extensions.
_READER_CONFIG = {"enable_external_access": "false", "python_enable_replacements": "false"}

# The last message is caused by a thread of this process that is closing the file.
_HELD_ELSEWHERE = re.compile(
    "Could not set lock on file|with a different configuration|is already attached"
)

REBUILD = "rebuild it from the run directories"
WRITE_REMEDY = f"free space if the disk is full, else {REBUILD}, which are safe"

_T = TypeVar("_T")

_BROKEN = (
    duckdb.IOException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.TransactionException,
)


@contextmanager
def writing(path: Path, wait_s: float) -> Iterator[None]:
    """Be the only writer; readers continue, other writers wait.

    Raises:
        UserError: another writer does not finish within ``wait_s`` seconds.
    """
    make_folder(path.parent)
    with file_lock(Path(f"{path}.lock"), wait_s=wait_s, busy=_busy(path, wait_s)):
        yield


@contextmanager
def write_connection(path: Path, wait_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-write connection, migrated to the newest schema; use it inside ``writing``.

    Raises:
        UserError: readers hold the file for ``wait_s`` seconds, or it cannot be used.
    """
    with _gate(path, wait_s), _explained(path, "write", WRITE_REMEDY), _interruptible():
        _create(path)
        connection = _open(path, wait_s, read_only=False)
        try:
            migrate(connection)
            yield connection
        finally:
            connection.close()


def _create(path: Path) -> None:
    """Create an empty database if there is none, atomically."""
    if path.exists():
        return
    for leftover in path.parent.glob(f".{path.name}.*.new*"):
        leftover.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with duckdb.connect(temporary) as connection:
            migrate(connection)
        # The log of a deleted database is useless.
        Path(f"{path}.wal").unlink(missing_ok=True)
        os.replace(temporary, path)
    finally:
        for ending in ("", ".wal"):
            Path(f"{temporary}{ending}").unlink(missing_ok=True)


def is_broken(error: duckdb.Error) -> bool:
    """Whether an error means a full disk or a damaged file, not wrong SQL."""
    # A damaged block raises a plain Error, and a full disk at a commit a TransactionException.
    return isinstance(error, _BROKEN) or "Corrupt database file" in str(error)


@contextmanager
def _explained(path: Path, action: str, remedy: str) -> Iterator[None]:
    """Turn a full disk or a damaged file into a UserError that names the database.

    Writes use only this program's own SQL, so any SQL error means that the file has other tables.
    """
    try:
        yield
    except (duckdb.Error, OSError) as error:
        if isinstance(error, duckdb.Error) and action == "read" and not is_broken(error):
            raise
        raise UserError(
            f"cannot {action} the results database {path} ({str(error).splitlines()[0]}): {remedy}"
        ) from error


@contextmanager
def read_connection(path: Path, wait_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to a database, which is first migrated to the newest schema.

    Raises:
        UserError: there is no database, a writer holds it for ``wait_s`` seconds, or its file is
            damaged.
    """
    if not path.exists():
        raise UserError(
            f"there is no results database {path}: run an experiment, or rebuild the database from "
            "the run directories"
        )
    connection = _open(path, wait_s, read_only=True)
    try:
        with _explained(path, "read", REBUILD), _interruptible():
            if version_of(connection) < newest_version():
                connection.close()
                with writing(path, wait_s), write_connection(path, wait_s):
                    pass
                connection = _open(path, wait_s, read_only=True)
            yield connection
    finally:
        connection.close()


def interruptibly(connection: duckdb.DuckDBPyConnection, work: Callable[[], _T]) -> _T:
    """Call ``work`` on the connection so that a signal interrupts it at once.

    In the main thread DuckDB checks for signals only between the tasks of a query that this thread
    runs itself. If another thread runs the only task, it checks at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            return future.result()
        finally:
            while not future.done():
                connection.interrupt()
                wait([future], timeout=0.05)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the RuntimeError that DuckDB raises for a signal back into KeyboardInterrupt."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error


def _open(path: Path, wait_s: float, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    deadline = time.monotonic() + wait_s
    while True:
        if read_only and Path(f"{path}.gate").exists():
            with _gate(path, wait_s):
                pass
        try:
            config = _READER_CONFIG if read_only else {}
            return duckdb.connect(path, read_only=read_only, config=config)  # type: ignore[arg-type]
        except duckdb.Error as error:
            if not _HELD_ELSEWHERE.search(str(error)):
                raise UserError(
                    f"the results database {path} cannot be opened "
                    f"({str(error).splitlines()[0]}): {REBUILD}"
                ) from error
            if time.monotonic() > deadline:
                raise UserError(_busy(path, wait_s, str(error))) from error
        time.sleep(random.uniform(0.002, 0.02))


@contextmanager
def _gate(path: Path, wait_s: float) -> Iterator[None]:
    if os.access(path.parent, os.W_OK):
        with file_lock(Path(f"{path}.gate"), wait_s=wait_s, busy=_busy(path, wait_s)):
            yield
    else:
        # The folder is read-only, so there is no writer to wait for.
        yield


def _busy(path: Path, wait_s: float, message: str = "") -> str:
    holder = re.search(r"PID \d+", message)
    who = f"another program ({holder[0]})" if holder else "another program"
    return (
        f"{who} has held the results database {path} for more than {wait_s:g} s: close it and "
        "repeat the command; the run directories are safe"
    )
