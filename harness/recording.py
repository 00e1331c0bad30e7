"""What becomes of a run, in its directory and in the database, whatever happens to it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.registry import REPORTS
from harness.store.database import Database
from harness.store.rundir import RunDirectory, utc_now


@contextmanager
def recorded(
    directory: RunDirectory, described: dict[str, Any], *, index: bool = True
) -> Iterator[None]:
    """The run's status follows what happens inside, in its directory and in the database.

    A finished run stays one: a further evaluation has a status of its own, and one that fails or is
    stopped must not take a result out of the tables.

    Args:
        directory: the run's.
        described: what its record says from the start.
        index: whether the database follows; False where another process brings it up to date.
    """
    finished = directory.exists and directory.record["status"] == "success"
    began = {"status": "started", "started_at": utc_now(), "finished_at": None, "error": None}
    directory.update(**described, **({} if finished else began))

    def end(status: str, **why: str) -> None:
        if not finished:
            directory.end(status, **why)

    if index:
        indexed(directory)
    try:
        yield
    except KeyboardInterrupt:
        end("cancelled")
        raise
    except Exception as error:
        end("error", error=f"{type(error).__name__}: {error}")
        directory.log(traceback.format_exc())
        raise
    else:
        end("success")
    finally:
        if index:
            indexed(directory)


def indexed(directory: RunDirectory) -> None:
    """Bring the database to what the run's directory holds; the printed numbers are loaded too."""
    database = Database(directory.results)
    database.load_reported(REPORTS.get("reported"))
    database.record(directory)
