"""Deleting a run: all of it or, if the database is held, nothing."""

from functools import partial
from pathlib import Path

import duckdb
import pytest

from harness.errors import UserError
from harness.store import removal
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from tests.harness.store.conftest import assert_same, contents


def files(results: Path) -> dict[str, bytes]:
    """What the run directories hold, without locks."""
    found = (path for path in (results / "runs").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if path.name != "run.lock"}


def test_a_run_is_restored_if_the_database_is_held_while_it_is_deleted(
    make_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(removal, "Database", partial(Database, wait_s=0.1))
    run, database = make_run("a"), Database(tmp_path)
    database.record(run)
    database.record(make_run("b"))
    kept, rows = files(tmp_path), contents(database)
    holder = duckdb.connect(str(database.path), read_only=True)
    with pytest.raises(UserError, match="another program has held"):
        removal.delete(run)
    holder.close()
    assert files(tmp_path) == kept
    assert_same(contents(database), rows)
    with run.lock():
        assert run.record["status"] == "success"

    removal.delete(run)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]
    assert database.query("SELECT run_id FROM runs")["run_id"].tolist() == ["b"]
    assert RunDirectory(tmp_path, "b").exists
