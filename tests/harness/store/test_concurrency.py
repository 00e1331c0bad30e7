"""Several processes at one database. Each is a fresh interpreter, as in real use."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import pytest

from harness.errors import UserError
from harness.store import connection as connections
from harness.store.connection import write_connection, writing
from harness.store.database import Database
from harness.store.files import file_lock
from harness.store.rundir import RunDirectory

MakeRun = Callable[..., RunDirectory]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_reader_waits_for_a_writer_of_another_program(tmp_path, make_run):
    database = Database(tmp_path, wait_s=10)
    database.record(make_run())
    other = start(
        """
        import sys, duckdb
        connection = duckdb.connect(sys.argv[1])
        print("open", flush=True)
        input()
        connection.close()
        """,
        database.path,
    )
    assert other.stdout is not None
    assert other.stdin is not None
    assert other.stdout.readline() == "open\n"
    with pytest.raises(UserError, match=rf"another program \(PID {other.pid}\) has held .* 0.2 s"):
        Database(tmp_path, wait_s=0.2).query("SELECT 1")
    with pytest.raises(UserError, match="are safe"):
        Database(tmp_path, wait_s=0.2).record(make_run("b"))
    threading.Timer(0.3, lambda: other.communicate("\n")).start()
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 1


def test_a_writer_waits_for_a_reader_of_the_same_process(tmp_path, make_run):
    database = Database(tmp_path, wait_s=10)
    database.record(make_run("a"))
    reader = duckdb.connect(str(database.path), read_only=True)
    threading.Timer(0.3, reader.close).start()
    database.record(make_run("b"))
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 2


def test_threads_query_while_one_records(tmp_path, make_run):
    database = Database(tmp_path)
    runs = [make_run(f"r-{number}") for number in range(5)]
    database.record(runs[0])
    failures: list[BaseException] = []
    finished = threading.Event()

    def read() -> None:
        try:
            while not finished.is_set():
                database.query("SELECT count(*) FROM verdicts")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for run in runs:
        database.record(run)
    finished.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 5


def test_a_writer_gives_up_with_a_user_error_after_its_own_wait(tmp_path, make_run, monkeypatch):
    database, run = Database(tmp_path, wait_s=0.1), make_run()
    waits: list[float] = []

    def noted(path: Path, *, wait_s: float, busy: str) -> AbstractContextManager[None]:
        waits.append(wait_s)
        return file_lock(path, wait_s=wait_s, busy=busy)

    with writing(database.path, 0):
        monkeypatch.setattr(connections, "file_lock", noted)
        with pytest.raises(UserError, match=r"for more than 0\.1 s: close it and repeat"):
            database.record(run)
    assert waits == [0.1]


def test_readers_go_on_during_a_long_write_lock(tmp_path, make_run):
    database = Database(tmp_path, wait_s=0.5)
    database.record(make_run())
    with writing(database.path, 0):
        assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 1


def test_a_killed_writer_leaves_the_last_transaction(tmp_path, make_run):
    database = Database(tmp_path, wait_s=10)
    database.record(make_run("a"))
    other = start(
        """
        import os, signal, sys
        from pathlib import Path
        from harness.store.connection import write_connection, writing
        path = Path(sys.argv[1])
        with writing(path, 1), write_connection(path, 1) as connection:
            connection.execute("UPDATE runs SET seed = 17")
            connection.begin()
            connection.execute("DELETE FROM runs")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        database.path,
    )
    _, errors = other.communicate(timeout=60)
    assert other.returncode == -signal.SIGKILL, errors
    assert os.path.exists(f"{database.path}.wal")
    assert database.query("SELECT seed FROM runs")["seed"].tolist() == [17]
    database.rebuild()
    assert database.query("SELECT seed FROM runs")["seed"].isna().tolist() == [True]
    with writing(database.path, 1), write_connection(database.path, 1) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


# Without help DuckDB misses the signal where another of its threads has the query's only task.
def test_a_signal_in_a_long_query_interrupts_it(tmp_path, make_run):
    database = Database(tmp_path)
    database.record(make_run())

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(KeyboardInterrupt):
            database.query("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert database.query("SELECT count(*) AS n FROM runs")["n"].item() == 1
