"""The verbs report, sql and leaderboards, as their users meet them."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from divergence_bench.cli.main import main
from harness.store.database import Database
from harness.store.schema import TABLES
from leaderboards.printed import REPORTED_CSV


class Ended:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs the command line in this process."""

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        monkeypatch.setenv("COLUMNS", "100")
        status = 0
        try:
            main()
        except SystemExit as ending:
            status = int(ending.code or 0)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return call


@pytest.fixture
def results(tmp_path: Path) -> str:
    Database(tmp_path).load_reported(REPORTED_CSV)
    return str(tmp_path)


@pytest.mark.parametrize("number", range(1, 10))
def test_report_shows_every_table(harness, tmp_path: Path, number: int) -> None:  # type: ignore[no-untyped-def]
    ended = harness("report", "--table", str(number), "--results", str(tmp_path / "none"))
    assert ended.status == 0
    assert f"Table {number}: " in ended.out
    assert "first number of ours: python -m harness " in ended.out


def test_report_gives_every_format(harness, results: str) -> None:  # type: ignore[no-untyped-def]
    starts = {
        "markdown": "**Table 2.**",
        "latex": "% packages: booktabs",
        "csv": "table,row,kind",
        "html": "<!doctype html>",
        "json": "{",
    }
    for format_, start in starts.items():
        ended = harness("report", "--table", "2", "--format", format_, "--results", results)
        assert ended.status == 0
        assert ended.out.startswith(start)
        assert "31.45" in ended.out
    told = json.loads(harness("report", "--table", "2", "--json", "--printed-only").out)
    assert told["number"] == 2


def test_report_writes_a_site(harness, results: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "site"
    ended = harness("report", "--all", "--out", str(out), "--results", results)
    assert ended.status == 0
    assert (out / "index.html").exists()
    assert (out / "table-9.tex").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report",), "nothing says which table"),
        (("report", "--table", "12"), "no Table 12"),
        (("report", "--table", "2", "--format", "pdf"), "no format 'pdf'"),
        (("report", "--all"), "give --out DIR"),
        (("sql",), "nothing is asked"),
    ],
)
def test_mistakes_are_one_sentence(harness, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    ended = harness(*arguments)
    assert ended.status == 2
    assert ended.err.startswith("error: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_sql_answers_as_table_json_and_csv(harness, results: str) -> None:  # type: ignore[no-untyped-def]
    query = (
        "SELECT table_number, count(*) AS numbers, max(std) AS std, NULL AS nothing FROM reported "
        "WHERE table_number > 6 GROUP BY table_number ORDER BY table_number"
    )
    expected = [(7, 55, 0.08, None), (8, 16, None, None), (9, 16, None, None)]
    told = json.loads(harness("sql", query, "--json", "--results", results).out)
    assert [tuple(row.values()) for row in told] == expected
    assert list(told[0]) == ["table_number", "numbers", "std", "nothing"]
    lines = list(csv.reader(io.StringIO(harness("sql", query, "--csv", "--results", results).out)))
    assert lines[1] == ["7", "55", "0.08", ""]
    shown = harness("sql", query, "--results", results).out
    assert "numbers" in shown
    assert "3 rows" in shown


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
def test_sql_only_reads(harness, results: str, query: str) -> None:  # type: ignore[no-untyped-def]
    before = Database(Path(results)).path.read_bytes()
    ended = harness("sql", query, "--results", results)
    assert ended.status == 2
    assert "only reads" in ended.err
    assert ended.err.count("\n") == 1
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
def test_sql_errors_are_one_sentence(harness, results: str, query: str, message: str) -> None:  # type: ignore[no-untyped-def]
    ended = harness("sql", query, "--results", results)
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_sql_without_a_database_is_one_sentence(harness, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ended = harness("sql", "SELECT 1", "--results", str(tmp_path))
    assert ended.status == 2
    assert "there is no results database" in ended.err


def test_sql_tells_the_schema(harness) -> None:  # type: ignore[no-untyped-def]
    told = json.loads(harness("sql", "--schema", "--json").out)
    columns = {(row["table"], row["column"]) for row in told if row["column"]}
    assert columns == {(t.name, c.name) for t in TABLES.values() for c in t.columns}
    assert all(row["meaning"] for row in told)
    shown = harness("sql", "--schema").out
    assert all(table.name in shown for table in TABLES.values())


def test_robustbench_goes_in_and_asks_for_what_it_lacks(  # type: ignore[no-untyped-def]
    harness, results: str, tmp_path: Path
) -> None:
    ended = harness("leaderboards", "import", "robustbench", str(tmp_path), "--results", results)
    assert ended.status == 2
    assert "holds no JSON file" in ended.err
    out = str(tmp_path / "x.json")
    ended = harness(
        "leaderboards", "export", "robustbench", "nowhere", "--out", out, "--results", results
    )
    assert ended.status == 2
    assert ended.err.startswith("error: ")
