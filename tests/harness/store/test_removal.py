"""Deleting a run: all of it or, if the database cannot be written, nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import duckdb
import pytest

from harness.errors import UserError
from harness.store import removal
from harness.store.database import Database
from harness.store.files import file_lock
from harness.store.rundir import RunDirectory
from tests.harness.store.conftest import assert_same, contents


def files(results: Path) -> dict[str, bytes]:
    """What the run directories hold, without locks."""
    found = (path for path in (results / "runs").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if path.name != "run.lock"}


@pytest.fixture
def kill_after_move(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the process end as soon as it has moved a folder."""
    move = removal.move_folder

    def killed(folder: Path, target: Path) -> NoReturn:
        move(folder, target)
        raise KeyboardInterrupt

    return lambda: monkeypatch.setattr(removal, "move_folder", killed)


def leftovers(results: Path) -> list[Path]:
    return list((results / "runs").glob(".*"))


def test_a_run_is_kept_if_the_database_is_held_while_it_is_deleted(make_run, tmp_path, monkeypatch):
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
    assert not database.lacks("a")
    assert_same(contents(database), rows)
    with run.lock():
        assert run.record["status"] == "success"

    removal.delete(run)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]
    assert database.query("SELECT run_id FROM runs")["run_id"].tolist() == ["b"]
    assert RunDirectory(tmp_path, "b").exists


def test_a_run_is_restored_if_its_rows_cannot_be_deleted(make_run, tmp_path):
    run, database = make_run("a"), Database(tmp_path)
    database.record(run)
    kept = files(tmp_path)
    with duckdb.connect(str(database.path)) as connection:
        connection.execute("DROP TABLE epochs")
    with pytest.raises(UserError, match="rebuild it from the run directories"):
        removal.delete(run)
    assert files(tmp_path) == kept
    assert not leftovers(tmp_path)
    assert database.rebuild().counts["epochs"] == 3


@pytest.mark.parametrize("remove", [removal.delete, removal.set_aside])
def test_a_query_after_a_kill_finds_no_row_of_a_run_that_was_moved(
    remove, make_run, tmp_path, kill_after_move
):
    database, runs = Database(tmp_path), [make_run("a"), make_run("b")]
    for run in runs:
        database.record(run)
    kill_after_move()
    with pytest.raises(KeyboardInterrupt):
        remove(runs[0])
    assert not runs[0].path.exists()
    for table in ("runs", "evaluations", "verdicts", "metrics", "epochs", "artifacts"):
        found = database.query(f"SELECT DISTINCT run_id FROM {table}")["run_id"]
        assert found.tolist() == ["b"], table
    assert not database.lacks("a")


@pytest.mark.parametrize("later", ["delete", "rebuild"])
def test_what_a_kill_left_of_a_run_is_cleared_later(
    later, make_run, tmp_path, kill_after_move, monkeypatch
):
    run, other, database = make_run("a"), make_run("b"), Database(tmp_path)
    database.record(run)
    database.record(other)
    kill_after_move()
    with pytest.raises(KeyboardInterrupt):
        removal.delete(run)
    monkeypatch.undo()
    assert len(leftovers(tmp_path)) == 1
    database.rebuild() if later == "rebuild" else removal.delete(other)
    assert not leftovers(tmp_path)
    found = database.query("SELECT run_id FROM runs")["run_id"].tolist()
    assert found == (["b"] if later == "rebuild" else [])


def test_a_folder_that_another_process_is_deleting_is_left_to_it(make_run, tmp_path):
    folder = make_run("a").path.rename(tmp_path / "runs" / ".a.0123abcd.deleted")
    with file_lock(folder / "run.lock", wait_s=0, busy=""):
        Database(tmp_path).rebuild()
        assert leftovers(tmp_path) == [folder]
    Database(tmp_path).rebuild()
    assert not leftovers(tmp_path)


def test_the_rows_that_an_earlier_release_left_are_deleted_with_its_folder(make_run, tmp_path):
    """That release moved the folder first, and left no mark."""
    run, database = make_run("a"), Database(tmp_path)
    database.record(run)
    run.path.rename(tmp_path / "runs" / ".a.0123abcd.deleted")
    removal.delete(make_run("b"))
    assert not leftovers(tmp_path)
    assert database.query("SELECT run_id FROM runs").empty
