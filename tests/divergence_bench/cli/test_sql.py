"""The verb ``sql``: it only reads, and prints a table where it fits, else each row vertically."""

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from divergence_bench.cli.sql import QueryResult, print_text
from harness.store.database import Database
from harness.store.schema import TABLES

LONG = '{"training": {"epochs": 200, "batch_size": 128}, "name": "' + "x" * 200 + '"}'
WIDE = QueryResult(
    ("run_id", "seed", "config", "error"), (("a", 0, LONG, None), ("b", 1, LONG, None))
)


def printed(answer: QueryResult, *, width: int, terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_text(answer, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 200])
def test_rows_that_do_not_fit_are_printed_vertically(width: int) -> None:
    expected = ["-[ 1 ]-", "run_id  a", "seed    0", f"config  {LONG}", "error"]
    expected += ["-[ 2 ]-", "run_id  b", "seed    1", f"config  {LONG}", "error", "2 rows"]
    assert printed(WIDE, width=width, terminal=False) == expected
    cut = [line if len(line) <= width else line[: width - 1] + "…" for line in expected]
    assert printed(WIDE, width=width, terminal=True) == cut


@pytest.mark.parametrize("terminal", [False, True])
def test_rows_that_fit_stay_a_table(terminal: bool) -> None:
    narrow = QueryResult(("run_id", "seed"), (("a", 0), ("b" * 72, 1)))
    lines = printed(narrow, width=80, terminal=terminal)
    assert lines[0].split() == ["run_id", "seed"]
    assert lines[-2].split() == ["b" * 72, "1"]
    assert "-[ 1 ]-" in printed(narrow, width=70, terminal=terminal)


def test_the_lines_of_a_value_are_below_each_other() -> None:
    plan = QueryResult(("key", "plan"), (("physical", "+" + "-" * 40 + "\n| scan"),))
    lines = printed(plan, width=40, terminal=False)
    assert lines[2:4] == ["plan  +" + "-" * 40, "      | scan"]


def test_sql_answers_as_table_json_and_csv(call, results: str) -> None:
    query = (
        "SELECT table_number, count(*) AS numbers, max(std) AS std, NULL AS nothing FROM reported "
        "WHERE table_number > 6 GROUP BY table_number ORDER BY table_number"
    )
    expected = [(7, 55, 0.08, None), (8, 16, None, None), (9, 16, None, None)]
    answer = json.loads(call("sql", query, "--json", "--results", results).out)
    assert [tuple(row.values()) for row in answer] == expected
    assert list(answer[0]) == ["table_number", "numbers", "std", "nothing"]
    lines = list(csv.reader(io.StringIO(call("sql", query, "--csv", "--results", results).out)))
    assert lines[1] == ["7", "55", "0.08", ""]
    shown = call("sql", query, "--results", results).out
    assert "numbers" in shown
    assert "3 rows" in shown


def test_json_has_every_column_and_no_number_that_json_lacks(call, results: str) -> None:
    query = (
        "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a, 'inf'::DOUBLE AS b, ['-inf'::DOUBLE, 1] AS c, "
        "{'x': 'nan'::DOUBLE} AS d"
    )

    def refuse(name: str) -> None:
        raise ValueError(name)

    printed = call("sql", query, "--json", "--results", results).out
    (row,) = json.loads(printed, parse_constant=refuse)
    assert row == {
        "a": 1, "a_2": 2, "a_1": 3, "a_3": 4, "b": None, "c": [None, 1.0], "d": {"x": None}
    }  # fmt: skip
    header, values = csv.reader(io.StringIO(call("sql", query, "--csv", "--results", results).out))
    assert dict(zip(header, values, strict=True))["b"] == "inf"


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM reported",
        "INSERT INTO meta VALUES ('a', 'b')",
        "UPDATE reported SET value = 1",
        "DROP TABLE runs",
        "CREATE TABLE x (y INTEGER)",
        "COPY reported TO 'stolen.csv'",
        "ATTACH 'other.duckdb'",
        "SET memory_limit = '1GB'",
        "PRAGMA version",
        "INSTALL httpfs",
    ],
)
def test_sql_only_reads(refused, results: str, query: str) -> None:
    before = Database(Path(results)).path.read_bytes()
    assert "only reads" in refused("sql", query, "--results", results)
    assert Database(Path(results)).path.read_bytes() == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nothing FROM runs", "nothing"),
        ("SELEKT 1", "syntax error"),
        ("SELECT 1; SELECT 2", "not 2"),
        ("", "not 0"),
        ("SELECT * FROM read_csv('/etc/passwd')", "refuses the query"),
        ("SELECT * FROM elsewhere", "elsewhere"),
        ("EXPLAIN ANALYZE DELETE FROM reported", "refuses the query"),
    ],
)
def test_sql_errors_are_one_sentence(refused, results: str, query: str, message: str) -> None:
    assert message in refused("sql", query, "--results", results)


def test_sql_without_a_database_is_one_sentence(refused, tmp_path: Path) -> None:
    line = refused("sql", "SELECT 1", "--results", str(tmp_path))
    assert "there is no results database" in line


def test_sql_shows_the_schema(call) -> None:
    answer = json.loads(call("sql", "--schema", "--json").out)
    columns = {(row["table"], row["column"]) for row in answer if row["column"]}
    assert columns == {(t.name, c.name) for t in TABLES.values() for c in t.columns}
    assert all(row["meaning"] for row in answer)
    shown = call("sql", "--schema").out
    assert all(table.name in shown for table in TABLES.values())
