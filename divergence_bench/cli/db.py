"""The verbs of the database: ``rebuild``, ``merge``, ``export`` and ``import``."""

from __future__ import annotations

import json
from collections.abc import Sized
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from divergence_bench.cli import listing
from harness.registry import REPORTS
from harness.store import exchange
from harness.store.database import Database
from harness.store.sharing import Merged

db = typer.Typer(help="The results database.", no_args_is_help=True)

Results = Annotated[Path, typer.Option(help="Folder of run directories and database.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@db.command()
def rebuild(results: Results = Path("results"), as_json: Json = False) -> None:
    """Make the database anew from the run directories."""
    outcome = Database(results).rebuild(reported=REPORTS.get("reported"))
    listing.print_rebuild(outcome, as_json=as_json, console=Console())


@db.command("merge")
def merge_(
    other: Annotated[Path, typer.Argument(help="Another results folder, or its database.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Bring the runs of another results folder here; what contradicts is kept aside and named."""
    _print(exchange.merge_other(results, other), as_json)


@db.command()
def export(
    parquet: Annotated[Path, typer.Option(help="Folder to write.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write all tables as Parquet files with their hashes; weights are not among them."""
    rows = exchange.export(results, parquet)
    told = ", ".join(f"{count} {name}" for name, count in rows.items())
    print(json.dumps({"rows": rows}) if as_json else f"exported to {parquet}: {told}")


@db.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="A folder that `db export` wrote.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Bring the runs of an export here, as `db merge` does."""
    _print(exchange.import_(results, folder), as_json)


def _print(merged: Merged, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(merged), default=str, indent=2))
        return
    counts: dict[str, Sized] = {
        "added": merged.added,
        "completed": merged.completed,
        "the same": merged.same,
        "in conflict": merged.conflicts,
        "left out": merged.left_out,
    }
    print("runs: " + ", ".join(f"{len(runs)} {what}" for what, runs in counts.items()))
    for run_id, folder in merged.conflicts.items():
        print(
            f"in conflict: {run_id} is here with other weights or verdicts; theirs is in {folder}"
        )
    for run_id, reason in merged.left_out.items():
        print(f"left out: {run_id}: {reason}")
