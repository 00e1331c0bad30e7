"""A database that cannot be read: one sentence, one wait, and nothing hidden that needs none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.store.connection import write_connection, writing
from harness.store.database import Database

READING = ["leaderboards", "tradeoffs", "runs", "run", "compare", "tsne"]
WITHOUT = ["methods", "losses"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with writing(path, 5), write_connection(path, 5):
        yield


@contextmanager
def corrupt(path: Path) -> Iterator[None]:
    path.write_text("<!doctype html>")
    yield


@contextmanager
def newer(path: Path) -> Iterator[None]:
    with writing(path, 5), write_connection(path, 5) as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE name = 'schema_version'")
    yield


TROUBLES = {locked: "another program", corrupt: "cannot be opened", newer: "update divergence"}


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each query that fails was allowed to wait; a wait is cut short."""
    monkeypatch.setattr("app.components.WAIT_S", 0.4)
    monkeypatch.setattr("app.components.FOOTER_WAIT_S", 0.1)
    found: list[float] = []
    query = Database.query

    def counted(self, *arguments):
        try:
            return query(self, *arguments)
        except UserError:
            found.append(self._wait_s)
            raise

    monkeypatch.setattr(Database, "query", counted)
    return found


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("page", READING)
def test_a_page_says_it_once_after_one_wait(
    open_page, tmp_path, failures, page: str, trouble: Callable
) -> None:
    with trouble(Database(tmp_path).path):
        at = open_page(page, tmp_path, run="a", table="2")
    assert at.title
    assert TROUBLES[trouble] in at.error[0].value.replace("\\", "")
    assert len(at.error) == 1
    assert failures == [0.4]
    assert not any("no results in this folder" in each.value for each in at.info)


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("page", WITHOUT)
def test_a_page_that_reads_no_database_waits_for_none(
    open_page, tmp_path, failures, page: str, trouble: Callable
) -> None:
    with trouble(Database(tmp_path).path):
        at = open_page(page, tmp_path)
    assert not at.error
    assert failures == [0.1]
    assert "cannot be read now" in at.caption[-1].value


def test_printed_numbers_are_shown_without_the_database(open_page, tmp_path) -> None:
    with corrupt(Database(tmp_path).path):
        at = open_page("tradeoffs", tmp_path)
    assert "IKL-AT" in at.dataframe[0].value.to_string()


def test_without_the_database_no_table_asks_for_a_first_run(open_page, tmp_path) -> None:
    with corrupt(Database(tmp_path).path):
        at = open_page("leaderboards", tmp_path, table="2")
    assert not at.code
    assert not any("Only printed numbers" in each.value for each in at.caption)


def test_the_next_visit_after_the_trouble_shows_the_runs(
    open_page, store_run, tmp_path, failures
) -> None:
    store_run(tmp_path, "ikl", "IKL-AT")
    with locked(Database(tmp_path).path):
        at = open_page("runs", tmp_path)
    assert not at.dataframe
    assert at.run().dataframe[0].value["title"].tolist() == ["IKL-AT"]
    assert not at.error


def test_a_file_in_place_of_the_folder_is_no_crash(open_page, tmp_path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert open_page("leaderboards", file).title
