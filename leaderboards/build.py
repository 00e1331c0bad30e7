"""The tables of the paper, assembled from the printed numbers and a results folder."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from harness.errors import UserError
from harness.store.database import Database
from leaderboards.extra_rows import added_rows
from leaderboards.fill import Places
from leaderboards.paper import TABLES
from leaderboards.published import published_rows
from leaderboards.results import Measured, measured
from leaderboards.spec import TableSpec
from leaderboards.table import Column, Row, Table, TableTitle

# Where the command line stores runs if it is told no folder.
DEFAULT_RESULTS = Path("results")


def tables() -> list[TableTitle]:
    """Number and title of every table, in order."""
    return [TableTitle(number, spec.title) for number, spec in sorted(TABLES.items())]


def table(number: int, results: Path | None = None) -> Table:
    """One table with every number in its place.

    Args:
        number: 1 to 9.
        results: the results folder whose runs stand beside; None for the printed numbers alone.
            A folder without a database is as good as None; ``message`` then says so. The table's
            commands store in it.

    Raises:
        UserError: there is no such table, or the database cannot be read.
    """
    spec = TABLES.get(number)
    if spec is None:
        raise UserError(f"there is no Table {number}: the paper has {min(TABLES)} to {max(TABLES)}")
    groups: list[Measured] = []
    entries: tuple[Row, ...] = ()
    message = ""
    if results is not None:
        if Database(results).path.exists():
            groups = measured(results)
            entries = published_rows(spec, results)
        else:
            message = f"there is no results database in {results} yet"
    return _for_folder(_assembled(spec, groups, entries, message), results)


def in_folder(command: str, results: Path | None) -> str:
    """A command that stores in the results folder, which it need not name if it is the default."""
    if not command or results is None or results.resolve() == DEFAULT_RESULTS.resolve():
        return command
    return f"{command} --results {shlex.quote(str(results))}"


def _for_folder(shown: Table, results: Path | None) -> Table:
    """The table whose commands make numbers that it will show."""
    rows = [dataclasses.replace(row, command=in_folder(row.command, results)) for row in shown.rows]
    first_run = in_folder(shown.first_run, results)
    return dataclasses.replace(shown, rows=tuple(rows), first_run=first_run)


def _assembled(
    spec: TableSpec, groups: list[Measured], entries: tuple[Row, ...], message: str
) -> Table:
    places = Places(spec, groups)
    rows = places.rows()
    added, other = added_rows(spec, groups, places)
    columns = [
        Column(
            column.key,
            column.heads,
            places.metric(column),
            column.help,
            column.decimals,
            column.unit,
            column.lower_is_better,
        )
        for column in spec.columns
    ]
    height = len(columns[0].heads)
    columns += other
    columns += [
        Column(
            f"{difference.of}-difference",
            ("",) * (height - 1) + (difference.title,),
            difference.of,
            difference.help,
            difference=True,
        )
        for difference in spec.differences
    ]
    every = (*rows, *entries, *added)
    has_ours = any(cell.ours for row in every for cell in row.cells.values())
    if not has_ours and not message and groups:
        message = "no run in the results folder belongs in this table yet"
    return Table(
        number=spec.number,
        title=spec.title,
        caption=spec.caption,
        protocol=spec.protocol,
        selection=spec.selection,
        labels=spec.labels,
        method_label=spec.method_label,
        last_labels=spec.last_labels,
        stub=spec.stub,
        stub_text=spec.stub_text,
        panels=spec.panels,
        columns=tuple(columns),
        rows=every,
        remarks=spec.remarks,
        first_run=spec.first_run,
        has_ours=has_ours,
        message=message,
    )
