"""The results database: the content of run directories in SQL tables."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from harness.errors import UserError
from harness.store.connection import (
    interruptibly,
    is_broken,
    read_connection,
    write_connection,
    writing,
)
from harness.store.files import (
    append_text,
    file_lock,
    file_sha256,
    make_folder,
    remove_folder,
    sync_folder,
    write_bytes_atomic,
)
from harness.store.ingest import (
    known_of,
    no_rows,
    read_reported,
    snapshot,
    store_reported,
    store_rows,
)
from harness.store.rundir import RUNS_FOLDER, RunDirectory, run_folders
from harness.store.schema import META, TABLES, create_views

DATABASE_NAME = "harness.duckdb"
# Subfolder of the results folder for files of published numbers.
PUBLISHED = "published"
# Subfolder with an empty file for each change of a run that is not in the database yet.
UNINDEXED = ".unindexed"
# Ending of a run's folder, whose name then starts with a dot, while it is deleted.
DELETED = ".deleted"
WAIT_S = 60.0


@dataclass(frozen=True)
class Rebuilt:
    """The outcome of a rebuild.

    Attributes:
        counts: table name to its number of rows.
        unreadable: folders of runs and of evaluations that are not in the database because they
            cannot be read, and why.
    """

    counts: dict[str, int]
    unreadable: list[tuple[Path, str]]


class Database:
    """The database of a results folder; the file is open only during a call.

    Args:
        results: the results folder.
        wait_s: how many seconds a call waits for other processes.
        name: the file's name.
    """

    def __init__(self, results: Path, wait_s: float = WAIT_S, name: str = DATABASE_NAME) -> None:
        """Create the object only: no file is opened or written."""
        self.results = results
        self.path = results / name
        self._wait_s = wait_s
        self._shared: duckdb.DuckDBPyConnection | None = None

    def query(self, sql: str, params: Sequence[Any] | dict[str, Any] = ()) -> pd.DataFrame:
        """Run a query, which can read this database only.

        Raises:
            UserError: there is no database, it is busy for too long, or the query fails.
        """
        with self._reader() as connection:
            create_views(connection, sql)
            try:
                return interruptibly(
                    connection, lambda: connection.execute(sql, params or None).df()
                )
            except duckdb.Error as error:
                if is_broken(error):
                    raise
                raise UserError(f"the database refuses the query: {error}") from error

    def fetch(
        self, sql: str, params: dict[str, Any] | None = None
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of a query as Python objects; times with a time zone are text.

        Raises:
            UserError: there is no database, or it is busy for too long.
            duckdb.Error: the query fails.
        """
        with self._reader() as connection:
            create_views(connection, sql)
            interruptibly(connection, lambda: connection.execute(sql, params))
            columns = [column[0] for column in connection.description]
            # DuckDB needs pytz to convert times with a time zone to Python objects.
            zoned = ["WITH TIME ZONE" in str(column[1]) for column in connection.description]
            if any(zoned):
                cast = [f"CAST(#{n} AS VARCHAR)" if z else f"#{n}" for n, z in enumerate(zoned, 1)]
                text = f"SELECT {', '.join(cast)} FROM ({sql.rstrip().rstrip(';')}\n)"
                interruptibly(connection, lambda: connection.execute(text, params))
            return columns, interruptibly(connection, connection.fetchall)

    def record(self, run: RunDirectory) -> dict[Path, str]:
        """Update the rows of one run from its directory, in one transaction.

        If the database is locked, damaged or on a full disk, the rows are stored by the next call
        for any run or by the next query. Verdict files that have not changed are not read again.
        A damaged evaluation keeps its previous rows.

        Returns:
            The folders of evaluations that cannot be read, and why.

        Raises:
            UserError: a file of the directory is damaged, or the database cannot be written.
        """
        mark = self.mark(run.run_id)
        try:
            # No outcome means that another process has just stored the run.
            outcome = self._index(self._wait_s).get(run.run_id, {})
        except UserError:
            if mark.exists():
                raise
            return {}
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    def mark(self, run_id: str) -> Path:
        """Let the next command that can update the rows of a run, and return the mark's file."""
        mark = self.results / UNINDEXED / f"{run_id}.{secrets.token_hex(4)}"
        append_text("", mark)
        return mark

    def store(self, run: RunDirectory) -> None:
        """Store the rows of a run from any results folder in this database.

        Raises:
            UserError: a file of the directory is damaged, or the database cannot be written.
        """
        with self._writer() as connection:
            store_rows(connection, snapshot(run))

    def lacks(self, run_id: str) -> bool:
        """Whether a change of the run's directory is not in the database yet."""
        return any((self.results / UNINDEXED).glob(f"{run_id}.*"))

    def _index(self, wait_s: float) -> dict[str, dict[Path, str] | UserError]:
        """Store every run that has a mark; return each run's damaged evaluations or its error."""
        found: dict[str, dict[Path, str] | UserError] = {}
        with self._writer(wait_s) as connection:
            # Later marks are for changes that the snapshots may not include.
            marks = sorted((self.results / UNINDEXED).glob("[!.]*"))
            for run_id in dict.fromkeys(mark.name.rpartition(".")[0] for mark in marks):
                run = RunDirectory(self.results, run_id)
                try:
                    moved = not run.path.exists()
                    rows = no_rows(run_id) if moved else snapshot(run, known_of(connection, run_id))
                except UserError as error:
                    found[run_id] = error
                    continue
                store_rows(connection, rows)
                found[run_id] = rows.damaged
        for mark in marks:
            mark.unlink(missing_ok=True)
        return found

    def _catch_up(self) -> None:
        """Store the runs that have a mark, unless another program is using the database."""
        if any((self.results / UNINDEXED).glob("[!.]*")):
            with suppress(UserError):
                self._index(wait_s=0)

    @contextmanager
    def forgetting(self, run_id: str) -> Iterator[None]:
        """Delete the rows of a run after the block, which moves its directory away.

        If the process is killed, the next command updates the rows.

        Raises:
            UserError: the database is busy for too long, and the block was not entered, or it
                cannot be written.
        """
        if not self.path.exists():
            yield
            return
        with self._writer() as connection:
            mark = self.mark(run_id)
            yield
            store_rows(connection, no_rows(run_id))
        mark.unlink(missing_ok=True)

    def finish_deletions(self) -> None:
        """Delete what killed processes left of runs that they were deleting."""
        for folder in (self.results / RUNS_FOLDER).glob(f".*{DELETED}"):
            self.mark(folder.name[1:].rsplit(".", 2)[0])
            busy = f"{folder} is being deleted"
            with suppress(UserError), file_lock(folder / "run.lock", wait_s=0, busy=busy):
                remove_folder(folder)

    def load_reported(self, csv: Path) -> None:
        """Load the numbers of a CSV file into ``reported``, unless they are already there.

        The column ``badge``, the same on every line, says who published the numbers; without it
        they are the paper's. Numbers with other badges are kept.

        Raises:
            UserError: the file is missing or invalid.
        """
        sha256 = file_sha256(csv)
        if self.path.exists():
            stored = self.query("SELECT value FROM meta WHERE starts_with(name, 'reported_sha256')")
            if sha256 in stored["value"].tolist():
                return
        printed = read_reported(csv)
        with self._writer() as connection:
            store_reported(connection, printed, sha256)

    def publish(self, csv: str) -> None:
        """Store RobustBench's numbers, as CSV, in the results folder, and load them.

        A rebuild loads them again.

        Raises:
            UserError: the folder cannot be written, or the database is busy for too long.
        """
        kept = self.results / PUBLISHED / "robustbench.csv"
        make_folder(kept.parent)
        write_bytes_atomic(csv.encode(), kept)
        self.load_reported(kept)

    def tables(self, names: Sequence[str]) -> dict[str, pa.Table]:
        """Read tables in one transaction, rows in order.

        Raises:
            UserError: there is no database, it is busy for too long, or it is damaged.
        """
        with self._reader() as connection:
            connection.begin()
            return {
                name: interruptibly(connection, partial(_whole, connection, name)) for name in names
            }

    def rebuild(self, reported: Path | None = None) -> Rebuilt:
        """Rebuild the database from the run directories, and replace the old one at the end.

        Args:
            reported: the CSV file of printed numbers; None leaves them out. Published numbers in
                the results folder are always loaded.

        Raises:
            UserError: there is nothing to rebuild from, the folder cannot be written, or another
                writer does not finish in time.
        """
        if not any((self.results / name).is_dir() for name in (RUNS_FOLDER, PUBLISHED)):
            raise UserError(
                f"{self.results} holds no folder {RUNS_FOLDER!r}: name a results folder"
            )
        self.finish_deletions()
        unreadable: list[tuple[Path, str]] = []
        marks = list((self.results / UNINDEXED).glob("[!.]*"))
        with writing(self.path, self._wait_s), self._replacement() as temporary:
            with write_connection(temporary, self._wait_s) as connection:
                for run in run_folders(self.results):
                    try:
                        rows = snapshot(run)
                    except UserError as error:
                        unreadable.append((run.path, str(error)))
                    else:
                        store_rows(connection, rows)
                        unreadable += rows.damaged.items()
                published = sorted((self.results / PUBLISHED).glob("*.csv"))
                for csv in ([reported] if reported is not None else []) + published:
                    store_reported(connection, read_reported(csv), file_sha256(csv))
                counts = {name: _count(connection, name) for name in TABLES if name != META.name}
        for mark in marks:
            mark.unlink(missing_ok=True)
        return Rebuilt(counts, unreadable)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let the queries inside share a connection: opening the file takes longer than most.

        Writers wait until the block ends.
        """
        with self._reader() as self._shared:
            try:
                yield
            finally:
                self._shared = None

    @contextmanager
    def _reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if self._shared is not None:
            yield self._shared
            return
        self._catch_up()
        with read_connection(self.path, self._wait_s) as connection:
            yield connection

    @contextmanager
    def _writer(self, wait_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        wait_s = self._wait_s if wait_s is None else wait_s
        with writing(self.path, wait_s), write_connection(self.path, wait_s) as connection:
            yield connection

    @contextmanager
    def _replacement(self) -> Iterator[Path]:
        """A path for a new database, which replaces the old one if the block succeeds."""
        for leftover in self.results.glob(f".{DATABASE_NAME}.*"):
            leftover.unlink()
        temporary = self.results / f".{DATABASE_NAME}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            yield temporary
            self._drop_log()
            try:
                os.replace(temporary, self.path)
            except OSError as error:
                raise UserError(
                    f"cannot replace {self.path} ({error.strerror}): move it away and repeat the "
                    "command"
                ) from error
            sync_folder(self.results)
        finally:
            for ending in ("", ".wal", ".gate"):
                Path(f"{temporary}{ending}").unlink(missing_ok=True)

    def _drop_log(self) -> None:
        """Remove the write-ahead log of the old database that a killed writer left.

        If the old database still opens, the log is first merged into it, so that nothing is lost if
        the process is killed before the replacement.
        """
        log = Path(f"{self.path}.wal")
        if log.exists():
            with suppress(UserError), write_connection(self.path, self._wait_s):
                pass
            log.unlink(missing_ok=True)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    ((count,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)


def _whole(connection: duckdb.DuckDBPyConnection, table: str) -> pa.Table:
    # An evaluation's verdicts stay in the order in which its images were drawn.
    order = "run_id, evaluation_id, rowid" if table == "verdicts" else "ALL"
    return connection.sql(f"SELECT * FROM {table} ORDER BY {order}").to_arrow_table()
