"""The reference runs in the repository, queried where they lie: nothing is imported or written."""

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
    """A folder of exports, each a folder of Parquet files, as one database that is only read."""

    @property
    def exists(self) -> bool:
        """Whether the folder has exports; an installation without a checkout has none."""
        return any(self.results.glob("*/runs.parquet"))

    def query(self, sql: str, params: Sequence[Any] | dict[str, Any] = ()) -> pd.DataFrame:
        """The frame that a query gives."""
        with self._connected(sql) as connection:
            return connection.execute(sql, params or None).df()

    def fetch(
        self, sql: str, params: dict[str, Any] | None = None
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows that a query gives."""
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
