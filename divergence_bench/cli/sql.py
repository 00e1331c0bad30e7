"""Questions in SQL from the command line: read-only, one statement, errors in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from harness.errors import UserError
from harness.store.database import Database
from harness.store.schema import TABLES, VIEWS

READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


@dataclass(frozen=True)
class QueryResult:
    """The rows of a query: values are numbers, text, booleans, times, lists, objects or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def ask(results: Path, sql: str) -> QueryResult:
    """The answer of one reading statement.

    Raises:
        UserError: the statement writes, or it is several or none; it is wrong; or there is no
            database that can be read.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UserError(_refusal(error)) from error
    if len(statements) != 1:
        raise UserError(f"give one SQL statement, not {len(statements)}")
    if statements[0].type not in READING:
        raise UserError(
            "sql only reads: give a SELECT, WITH, DESCRIBE, SHOW or EXPLAIN statement; results are "
            "written by runs alone"
        )
    try:
        columns, rows = Database(results).fetch(sql)
    except duckdb.Error as error:
        raise UserError(_refusal(error)) from error
    return QueryResult(tuple(columns), tuple(tuple(map(_plain, row)) for row in rows))


def schema() -> QueryResult:
    """Every table, column and view with its type and meaning."""
    rows = []
    for table in TABLES.values():
        rows.append((table.name, "", "", table.doc))
        rows += [(table.name, column.name, column.kind, column.doc) for column in table.columns]
    rows += [(view.name, "", "view", view.doc) for view in VIEWS]
    return QueryResult(("table", "column", "type", "meaning"), tuple(rows))


def _refusal(error: duckdb.Error) -> str:
    """What DuckDB says, without its drawing of the statement."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = []
    for line in lines:
        if line.startswith("LINE "):
            break
        kept.append(line)
    return f"the database refuses the query: {' '.join(kept)}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
