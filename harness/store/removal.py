"""Delete runs, or set them aside so that they can be trained again."""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import UserError
from harness.store.database import DELETED, Database
from harness.store.files import file_sha256, make_folder, move_folder, remove_folder
from harness.store.rundir import RUNS_FOLDER, RunDirectory, list_runs

# Subfolder of the results folder for runs that were trained again, each in its own results folder.
REPLACED = "replaced"


def delete(run: RunDirectory) -> None:
    """Delete a run's directory, and its rows in the database.

    If the process is killed, a later command deletes what is left.

    Raises:
        UserError: another process works on the run, its folder cannot be written, or the database
            is busy for too long or cannot be written. The run is then kept.
    """
    database = Database(run.results)
    database.finish_deletions()
    doomed = run.path.with_name(f".{run.run_id}.{secrets.token_hex(4)}{DELETED}")
    with run.lock():
        try:
            with database.forgetting(run.run_id):
                move_folder(run.path, doomed)
        except UserError:
            if doomed.exists():
                move_folder(doomed, run.path)
            raise
        remove_folder(doomed)


def set_aside(run: RunDirectory) -> Path:
    """Move a run's directory to a separate results folder, so that the run can be trained again.

    Returns:
        That results folder, which has no database since the run may be damaged.

    Raises:
        UserError: another process works on the run, or a folder cannot be written.
    """
    aside = run.results / REPLACED / f"{run.run_id}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    make_folder(aside / RUNS_FOLDER)
    kept = RunDirectory(aside, run.run_id)
    database = Database(run.results, wait_s=0)
    with run.lock():
        database.mark(run.run_id)  # for a process that is killed after the next line
        move_folder(run.path, kept.path)
    with suppress(UserError):  # the database is busy: a later command deletes the rows
        database.record(run)
    return aside


def students_of(run: RunDirectory) -> list[str]:
    """The stored runs whose teacher has this run's weights, by name."""
    weights = {run.run_id}
    if run.model_path.exists():
        weights.add(file_sha256(run.model_path))
    found = []
    for other in list_runs(run.results):
        try:
            config = other.record.get("config") or {}
        except UserError:
            continue  # a damaged record: `list runs` names it
        if (config.get("teacher") or {}).get("weights") in weights:
            found.append(other.run_id)
    return found
