"""Build the tables of the paper from the printed numbers and a results folder."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.store.database import Database
from leaderboards.extra_rows import extra_rows
from leaderboards.fill import PrintedRows
from leaderboards.paper import TABLES
from leaderboards.printed import robustbench_rows
from leaderboards.results import RunGroup, run_groups
from leaderboards.spec import TableSpec
from leaderboards.table import Column, Row, Table, TableHeader

# Where the command line stores runs by default.
DEFAULT_RESULTS = Path("results")


def tables() -> list[TableHeader]:
    """The header of every table, in order: its number, title and more."""
    return [spec for _, spec in sorted(TABLES.items())]


def table(number: int, results: Path | None = None) -> Table:
    """One table of the paper with all its numbers.

    Args:
        number: 1 to 9.
        results: the results folder whose runs are added, and in which the table's commands store;
            None for the printed numbers alone. Without a database in it the table has the printed
            numbers, and ``message`` says why.

    Raises:
        UserError: there is no such table, or the database cannot be read.
    """
    spec = TABLES.get(number)
    if spec is None:
        raise UserError(f"there is no Table {number}: the paper has {min(TABLES)} to {max(TABLES)}")
    groups: list[RunGroup] = []
    entries: tuple[Row, ...] = ()
    message = ""
    if results is not None:
        if Database(results).path.exists():
            groups = run_groups(results)
            entries = robustbench_rows(spec, results)
        else:
            message = f"there is no results database in {results} yet"
    built = _built(spec, groups, entries, message)
    rows = [dataclasses.replace(row, command=in_folder(row.command, results)) for row in built.rows]
    first_run = in_folder(built.first_run, results)
    return dataclasses.replace(built, rows=tuple(rows), first_run=first_run)


def in_folder(command: str, results: Path | None) -> str:
    """A command that stores in the results folder, which it names unless it is the default."""
    if not command or results is None or results.resolve() == DEFAULT_RESULTS.resolve():
        return command
    return f"{command} --results {shlex.quote(str(results))}"


def _built(
    spec: TableSpec, groups: list[RunGroup], entries: tuple[Row, ...], message: str
) -> Table:
    printed = PrintedRows(spec, groups)
    own, further = extra_rows(spec, groups, printed)
    blank = ("",) * (len(spec.columns[0].heads) - 1)
    differences = [
        Column(f"{d.of}-difference", (*blank, d.title), d.of, d.help, difference=True)
        for d in spec.differences
    ]
    rows = (*printed.rows(), *entries, *own)
    has_ours = any(cell.ours for row in rows for cell in row.cells.values())
    if not has_ours and not message and groups:
        message = "no run in the results folder belongs in this table yet"
    return Table(
        **_inherited(spec, TableHeader),
        columns=(
            *(Column(**_inherited(column, Column)) for column in spec.columns),
            *further,
            *differences,
        ),
        rows=rows,
        has_ours=has_ours,
        message=message,
    )


def _inherited(spec: TableHeader | Column, base: type[TableHeader | Column]) -> dict[str, Any]:
    """The fields that a declaration has from the class of what it declares."""
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(base)}
