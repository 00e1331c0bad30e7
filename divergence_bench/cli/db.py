"""The command group ``db``: ``rebuild``, ``merge``, ``export``, ``import`` and ``delete``."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import print_result, stdout_for_results
from harness.store.rundir import find_run
from harness.store.text import counted

if TYPE_CHECKING:
    from harness.store.sharing import Merged

# Exit status if something was left out or is in conflict.
INCOMPLETE = 1

db = opt.new_typer(help="Manage the results database and its runs.")


@db.command()
def rebuild(results: opt.StoredResults = opt.RESULTS, as_json: opt.Json = False) -> None:
    """Rebuild the database from the run directories.

    Exit status 1 means that something could not be read and was left out.
    """
    from harness.store.database import Database
    from leaderboards.printed import REPORTED_CSV

    outcome = Database(results).rebuild(reported=REPORTED_CSV)
    unreadable = [(str(folder), reason) for folder, reason in outcome.unreadable]
    counts = ", ".join(f"{count} {table}" for table, count in outcome.counts.items())
    lines = [f"rebuilt: {counts}", *(f"left out: {reason}" for _, reason in unreadable)]
    rows = {"rows": outcome.counts, "unreadable": unreadable}
    print_result(rows, "\n".join(lines), as_json=as_json)
    if unreadable:
        raise typer.Exit(INCOMPLETE)


@db.command("merge")
def merge_(
    other: Annotated[
        Path, Argument(metavar="DIR", help="Another results folder, or its database.")
    ],
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Copy the runs of another results folder into this one.

    Conflicting runs are set aside and named.
    Exit status 1 means that there are conflicts or something was left out.
    """
    from harness.store import exchange

    print_merged(exchange.merge_other(results, other), as_json=as_json)


@db.command()
def export(
    parquet: Annotated[Path, opt.value("DIR", "Folder to write.", opt.STORAGE)],
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Export all tables as Parquet files, with a file of their hashes.

    The files contain no weights and no folder names of this machine.
    """
    from harness.store import exchange

    rows = exchange.export(results, parquet)
    counts = ", ".join(f"{count} {name}" for name, count in rows.items())
    print_result({"rows": rows}, f"exported to {parquet}: {counts}", as_json=as_json)


@db.command("import")
def import_(
    folder: Annotated[Path, Argument(metavar="DIR", help="A folder that `db export` wrote.")],
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Copy the runs of an export into the results folder, as `db merge` does."""
    from harness.store import exchange

    print_merged(exchange.import_(results, folder), as_json=as_json)


@db.command()
def delete(
    run: opt.Run,
    yes: Annotated[bool, opt.flag("--yes", "Delete without asking.", opt.EXECUTION)] = False,
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Delete a run: its model, its evaluations and its rows in the database.

    The command asks first, and names the runs that have this run as teacher.
    """
    from harness.store import removal

    directory = find_run(results, run)
    students = removal.students_of(directory)
    if not yes:
        with stdout_for_results():
            for student in students:
                print(f"{directory.run_id} is the teacher of {student}")
            evaluations = counted(len(directory.evaluations()), "evaluation")
            held = f"{directory.path}, with {evaluations}"
            typer.confirm(f"delete run {directory.run_id} ({held})?", abort=True)
    removal.delete(directory)
    deleted = {"deleted": directory.run_id, "teacher_of": students}
    print_result(deleted, f"deleted {directory.run_id}", as_json=as_json)


def print_merged(merged: Merged, *, as_json: bool) -> None:
    """Print how many runs were added, and which are in conflict or left out.

    Raises:
        typer.Exit: with status 1 if any are in conflict or left out.
    """
    counts: dict[str, Sized] = {
        "added": merged.added,
        "completed": merged.completed,
        "the same": merged.same,
        "in conflict": merged.conflicts,
        "left out": merged.left_out,
    }
    lines = ["runs: " + ", ".join(f"{len(runs)} {what}" for what, runs in counts.items())]
    for run_id, folder in merged.conflicts.items():
        lines.append(
            f"in conflict: {run_id} has other weights or verdicts here; theirs is in {folder}"
        )
    lines += [f"left out: {run_id}: {reason}" for run_id, reason in merged.left_out.items()]
    print_result(asdict(merged), "\n".join(lines), as_json=as_json)
    if merged.conflicts or merged.left_out:
        raise typer.Exit(INCOMPLETE)
