"""Read-only access to the reference runs in the repository, without importing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from harness.store.database import Database
from harness.store.schema import create_views

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
TABLES = ("runs", "evaluations", "metrics", "verdicts")


class Exported(Database):
    """Read-only database over a folder of exports, each a folder of Parquet files."""

    @property
    def exists(self) -> bool:
        """Whether the folder has exports; an installation without a checkout has none."""
        return any(self.results.glob("*/runs.parquet"))

    def query(self, sql: str, params: Sequence[Any] | dict[str, Any] = ()) -> pd.DataFrame:
        """Return a query's result as a data frame."""
        with self._connected(sql) as connection:
            return connection.execute(sql, params or None).df()

    def fetch(
        self, sql: str, params: dict[str, Any] | None = None
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return a query's column names and rows."""
        with self._connected(sql) as connection:
            connection.execute(sql, params)
            return [column[0] for column in connection.description], connection.fetchall()

    def _connected(self, sql: str) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        for name in TABLES:
            files = str(self.results / "*" / f"{name}.parquet").replace("'", "''")
            connection.execute(
                f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}', union_by_name = true)"
            )
        create_views(connection, sql)
        return connection


def reference_runs() -> Exported:
    """The reference runs that ship with the repository."""
    return Exported(REFERENCE)
