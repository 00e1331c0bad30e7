"""The command ``sql``: one read-only statement on the results database."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import duckdb
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import new_console, print_json
from harness.errors import UserError
from harness.store.schema import TABLES, VIEWS
from harness.store.text import counted

READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


def sql(
    context: typer.Context,
    statement: Annotated[
        str | None, Argument(metavar="QUERY", help='SQL, such as "select * from runs".')
    ] = None,
    show_schema: Annotated[
        bool,
        opt.flag("--schema", "Print every table and column with its meaning.", opt.SELECTION),
    ] = False,
    results: opt.StoredResults = opt.RESULTS,
    as_csv: Annotated[bool, opt.flag("--csv", "Print CSV.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Query the results database with SQL; statements that write are refused."""
    if as_json:
        opt.refuse_unused(context, {"as_csv": "with --json"})
    if show_schema:
        opt.refuse_unused(context, {"results": "with --schema"})
        if statement is not None:
            raise UserError("--schema takes no query: leave one out")
        result = schema()
    elif statement is not None:
        result = query(results, statement)
    else:
        raise UserError("there is no query: give an SQL statement, or --schema")
    if as_json:
        print_json([dict(zip(result.columns, row, strict=True)) for row in result.rows])
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.columns)
        writer.writerows(result.rows)
    else:
        print_text(result, new_console(), wrap=show_schema)


@dataclass(frozen=True)
class QueryResult:
    """The rows of a query: values are numbers, text, booleans, times, lists, objects or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def query(results: Path, statement: str) -> QueryResult:
    """Return the rows of one read-only statement.

    Raises:
        UserError: ``statement`` is invalid, writes, or is not exactly one statement; or there is
            no readable database.
    """
    from harness.store.database import Database

    try:
        parsed = duckdb.extract_statements(statement)
        if len(parsed) != 1:
            raise UserError(f"give one SQL statement, not {len(parsed)}")
        if parsed[0].type not in READING:
            raise UserError(
                "sql only reads: give a SELECT, WITH, DESCRIBE, SHOW or EXPLAIN statement; only "
                "runs write results"
            )
        columns, rows = Database(results).fetch(statement)
    except duckdb.Error as error:
        # DuckDB's reason, without its excerpt of the statement.
        reason = str(error).partition("\nLINE ")[0]
        raise UserError(f"the database refuses the query: {' '.join(reason.split())}") from error
    return QueryResult(distinct(columns), tuple(tuple(map(_without_nan, row)) for row in rows))


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Make column names unique: ``a``, ``a`` become ``a``, ``a_1``, as in DuckDB."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        taken = {*names, *found}
        found.append(name if name not in found else next(n for n in numbered if n not in taken))
    return tuple(found)


def schema() -> QueryResult:
    """Return every table, column and view with its type and meaning."""
    rows = []
    for table in TABLES.values():
        rows.append((table.name, "", "", table.doc))
        rows += [(table.name, column.name, column.kind, column.doc) for column in table.columns]
    rows += [(view.name, "", "view", view.doc) for view in VIEWS]
    return QueryResult(("table", "column", "type", "meaning"), tuple(rows))


def print_text(result: QueryResult, console: Console, *, wrap: bool = False) -> None:
    """Print a table or, if it is wider than the console and may not wrap, one value per line."""
    table = _table(result)
    unlimited = console.options.update(width=sys.maxsize)
    if wrap or console.measure(table, options=unlimited).maximum <= console.width:
        console.print(table)
    else:
        _print_vertically(result, console)
    number = len(result.rows)
    console.print(counted(number, "row"), style="dim", highlight=False)


def _table(result: QueryResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column, name in enumerate(result.columns):
        values = [row[column] for row in result.rows]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        right = bool(values) and numbers
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*("" if value is None else Text(str(value)) for value in row))
    return table


def _print_vertically(result: QueryResult, console: Console) -> None:
    """Print one value per line, truncated on a terminal but not in a pipe."""
    widest = max(map(len, result.columns))
    for number, row in enumerate(result.rows, 1):
        console.print(Text(f"-[ {number} ]-", style="dim"))
        for name, value in zip(result.columns, row, strict=True):
            first, *others = ("" if value is None else str(value)).splitlines() or [""]
            lines = [Text.assemble((name.ljust(widest), "bold"), "  ", first)]
            lines += [Text(" " * (widest + 2) + other) for other in others]
            for line in lines:
                if console.is_terminal:
                    line.truncate(console.width, overflow="ellipsis")
                console.print(line, soft_wrap=True)


def _without_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
