"""Build the tables of the paper from the printed numbers and a results folder."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.store.database import Database
from leaderboards.differences import difference_table
from leaderboards.extra_rows import extra_rows
from leaderboards.field import field_table
from leaderboards.fill import PrintedRows
from leaderboards.headline import headline
from leaderboards.paired import with_intervals
from leaderboards.paper import TABLES
from leaderboards.published import board
from leaderboards.reference import reference_runs
from leaderboards.results import RunGroup, run_groups
from leaderboards.small import small_table
from leaderboards.spec import TableSpec
from leaderboards.table import Column, Table, TableHeader, with_keys

# Where the command line stores runs by default.
DEFAULT_RESULTS = Path("results")
# Numbers of the tables whose models are on a RobustBench board, by the name of the board's table.
FIELDS = {
    f"field-{spec.threat[0]}": number for number, spec in sorted(TABLES.items()) if spec.threat
}
SMALL_NAME = "small"


def tables() -> list[TableHeader]:
    """Return the header of every table, in order: its number, title and more."""
    return [spec for _, spec in sorted(TABLES.items())]


def table(number: int, results: Path | None = None, *, name_folder: bool = True) -> Table:
    """Return one table of the paper with all its numbers.

    Args:
        number: 1 to 9.
        results: the results folder whose runs are added and to which the table's commands write;
            None for printed numbers only. If it has no database, the table has printed numbers
            only, and ``message`` says why.
        name_folder: whether commands name a results folder that is not the default.

    Raises:
        UserError: there is no such table, or the database cannot be read.
    """
    spec = TABLES.get(number)
    if spec is None:
        raise UserError(f"there is no Table {number}: give {min(TABLES)} to {max(TABLES)}")
    database = _database(results)
    groups = [] if database is None else run_groups(database)
    built = _built(spec, groups)
    rows = built.rows if database is None else with_intervals(built.rows, _metrics(built), database)
    folder = results if name_folder else None
    rows = [dataclasses.replace(row, command=in_folder(row.command, folder)) for row in rows]
    message = ""
    if results is not None and database is None:
        message = "there is no results database in the results folder yet"
    elif database is not None and not built.has_ours:
        message = "no run in the results folder belongs in this table yet"
    first_run = in_folder(built.first_run, folder)
    built = dataclasses.replace(built, rows=with_keys(rows), first_run=first_run, message=message)
    return dataclasses.replace(built, headline=headline(built))


def field(number: int, results: Path | None = None, *, name_folder: bool = True) -> Table:
    """Return RobustBench's entries ranked with the rows of one table of the paper.

    Args:
        number: number of a table in ``FIELDS``.
        results: as for ``table``.
        name_folder: as for ``table``.

    Raises:
        UserError: there is no such board, or the database cannot be read.
    """
    spec = TABLES.get(number)
    if spec is None or spec.threat is None:
        numbers = " and ".join(map(str, FIELDS.values()))
        raise UserError(f"Table {number} has no board on RobustBench: Tables {numbers} have one")
    entries = board(*spec.threat, None if _database(results) is None else results)
    return field_table(spec, table(number, results, name_folder=name_folder), entries)


def small(results: Path | None = None) -> tuple[Table, Table]:
    """Return the table of runs at small scale and the table of paired differences of methods.

    Their runs are those in the results folder and the reference runs shipped with the repository,
    treated as one store.

    Raises:
        UserError: the database cannot be read.
    """
    found = [database for database in (_database(results), _reference()) if database is not None]
    groups = run_groups(*found)
    shown = difference_table(groups)
    rows = with_intervals(shown.rows, _metrics(shown), *found)
    return small_table(groups), dataclasses.replace(shown, rows=tuple(rows))


def named(name: str, results: Path | None = None) -> list[Table]:
    """Return the tables with a name: ``2``, ``field-cifar10`` or ``small``.

    Raises:
        UserError: there is no such name, or the database cannot be read.
    """
    if name in FIELDS:
        return [field(FIELDS[name], results)]
    if name == SMALL_NAME:
        return list(small(results))
    if name.isascii() and name.isdigit() and int(name) in TABLES:
        return [table(int(name), results)]
    raise UserError(
        f"there is no table {name!r}: give 1 to {max(TABLES)}, {SMALL_NAME}, {' or '.join(FIELDS)}"
    )


def _database(results: Path | None) -> Database | None:
    """Return the database of a results folder; None if it has none."""
    if results is None:
        return None
    if results.is_file():
        raise UserError(f"{results} is a file: give the results folder, which contains runs/")
    database = Database(results)
    return database if database.path.exists() else None


def _reference() -> Database | None:
    database = reference_runs()
    return database if database.exists else None


def _metrics(shown: Table) -> dict[str, str]:
    return {column.key: column.metric for column in shown.columns}


def in_folder(command: str, results: Path | None) -> str:
    """Return a command with ``--results`` for the results folder, unless it is the default."""
    if not command or results is None or results.resolve() == DEFAULT_RESULTS.resolve():
        return command
    return f"{command} --results {shlex.quote(str(results))}"


def _built(spec: TableSpec, groups: list[RunGroup]) -> Table:
    printed = PrintedRows(spec, groups)
    own, further = extra_rows(spec, groups, printed)
    blank = ("",) * (len(spec.columns[0].heads) - 1)
    differences = [
        Column(f"{d.of}-difference", (*blank, d.title), d.of, d.help, difference=True)
        for d in spec.differences
    ]
    rows = (*printed.rows(), *own)
    return Table(
        **_inherited(spec, TableHeader),
        columns=(
            *(Column(**_inherited(column, Column)) for column in spec.columns),
            *further,
            *differences,
        ),
        rows=rows,
        has_ours=any(cell.ours for row in rows for cell in row.cells.values()),
    )


def _inherited(spec: TableHeader | Column, base: type[TableHeader | Column]) -> dict[str, Any]:
    """Return the fields that a declaration inherits from the class of what it declares."""
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(base)}
