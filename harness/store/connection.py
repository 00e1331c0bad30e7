"""Short connections to one DuckDB file that many processes share.

DuckDB lets one process write or many read, never both. So every connection lives for one query or
one transaction. Writers queue behind one file lock. A second one, the gate, keeps new readers out
while a writer waits for the present ones to leave: without it a stream of readers could keep the
writer waiting for ever. A reader that nonetheless meets another program's lock tries again.
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
from harness.store.schema import create_views, migrate, newest_version, version_of

# A query reads the database and nothing else: no files, no Python variables, no extensions.
_READER_CONFIG = {"enable_external_access": "false", "python_enable_replacements": "false"}

# The last is a thread of this process that is just closing the file.
_HELD_ELSEWHERE = re.compile(
    "Could not set lock on file|with a different configuration|is already attached"
)

_T = TypeVar("_T")

_BROKEN = (
    duckdb.IOException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.TransactionException,
)


@contextmanager
def writing(path: Path, wait_s: float) -> Iterator[None]:
    """Be the only writer: readers go on, other writers wait.

    Raises:
        UserError: another writer does not finish within ``wait_s`` seconds.
    """
    make_folder(path.parent)
    with file_lock(Path(f"{path}.lock"), wait_s=wait_s, busy=_busy(path, wait_s)):
        yield


@contextmanager
def write_connection(path: Path, wait_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-write connection, migrated to the newest schema; only inside ``writing``.

    Raises:
        UserError: readers do not leave within ``wait_s`` seconds, or the file cannot be used.
    """
    with _gate(path, wait_s), _writable(path), _interruptible():
        _create(path)
        connection = _open(path, wait_s, read_only=False)
        try:
            migrate(connection)
            yield connection
        finally:
            connection.close()


def _create(path: Path) -> None:
    """Make an empty database where there is none: whole at once, though the process be killed."""
    if path.exists():
        return
    for leftover in path.parent.glob(f".{path.name}.*.new*"):
        leftover.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with duckdb.connect(temporary) as connection:
            migrate(connection)
        # The log of a database that is gone belongs to nothing.
        Path(f"{path}.wal").unlink(missing_ok=True)
        os.replace(temporary, path)
    finally:
        for ending in ("", ".wal"):
            Path(f"{temporary}{ending}").unlink(missing_ok=True)


def is_broken(error: duckdb.Error) -> bool:
    """Whether the disk is full or the file damaged, rather than the SQL at fault."""
    # A damaged block is an Error of no kind, and a full disk at a commit one of the transaction.
    return isinstance(error, _BROKEN) or "Corrupt database file" in str(error)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, OSError) as error:
        if isinstance(error, duckdb.Error) and not is_broken(error):
            raise
        raise UserError(
            f"cannot write the results database {path} ({str(error).splitlines()[0]}): free space "
            "if the disk is full, else rebuild it from the run directories; what runs have written "
            "there is safe"
        ) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if not is_broken(error):
            raise
        raise UserError(
            f"the results database {path} cannot be read ({str(error).splitlines()[0]}): rebuild "
            "it from the run directories"
        ) from error


@contextmanager
def read_connection(path: Path, wait_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to a database of the newest schema, which is migrated if need be.

    Raises:
        UserError: there is no database, a writer does not leave within ``wait_s`` seconds, or the
            file cannot be used.
    """
    if not path.exists():
        raise UserError(
            f"there is no results database {path}: run an experiment, or rebuild the database from "
            "the run directories"
        )
    connection = _open(path, wait_s, read_only=True)
    try:
        with _readable(path), _interruptible():
            if version_of(connection) < newest_version():
                connection.close()
                with writing(path, wait_s), write_connection(path, wait_s):
                    pass
                connection = _open(path, wait_s, read_only=True)
            create_views(connection)
            yield connection
    finally:
        connection.close()


def answered(connection: duckdb.DuckDBPyConnection, work: Callable[[], _T]) -> _T:
    """What ``work`` on the connection gives; a signal ends it at once, however long it is.

    In the main thread DuckDB looks for signals only between the tasks of a query that this thread
    does itself. Where another of its threads has taken the only task, it would look at the end.
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
    """DuckDB makes a RuntimeError of its own of a signal that arrives during a query."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error


def _open(path: Path, wait_s: float, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    deadline = time.monotonic() + wait_s
    while True:
        if read_only:
            with _gate(path, wait_s):
                pass
        try:
            config = _READER_CONFIG if read_only else {}
            return duckdb.connect(path, read_only=read_only, config=config)  # type: ignore[arg-type]
        except duckdb.Error as error:
            if not _HELD_ELSEWHERE.search(str(error)):
                raise UserError(
                    f"the results database {path} cannot be opened "
                    f"({str(error).splitlines()[0]}): rebuild it from the run directories"
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
        # Nobody can write there, so there is no writer to make way for.
        yield


def _busy(path: Path, wait_s: float, message: str = "") -> str:
    holder = re.search(r"PID \d+", message)
    who = f"another program ({holder[0]})" if holder else "another program"
    return (
        f"{who} has held the results database {path} for more than {wait_s:g} s: close it and "
        "repeat the command; what runs have written to their directories is safe"
    )
