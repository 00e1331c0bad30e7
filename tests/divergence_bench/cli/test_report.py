"""The verbs ``report`` and ``leaderboards``."""

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", range(1, 10))
def test_report_shows_every_table(call, tmp_path: Path, number: int) -> None:
    ended = call("report", "--table", str(number), "--results", str(tmp_path))
    assert ended.status == 0
    assert f"Table {number}: " in ended.out
    assert "to add our first number, run: python -m harness " in ended.out


def test_report_gives_every_format(call, results: str) -> None:
    starts = {
        "markdown": "**Table 2.**",
        "latex": "% packages: booktabs",
        "csv": "table,row,kind",
        "html": "<!DOCTYPE html>",
        "json": "{",
    }
    for format_, start in starts.items():
        ended = call("report", "--table", "2", "--format", format_, "--results", results)
        assert ended.status == 0
        assert ended.out.startswith(start)
        assert "31.45" in ended.out
    answer = json.loads(call("report", "--table", "2", "--json", "--printed-only").out)
    assert answer["number"] == 2


def test_report_writes_a_site(call, results: str, tmp_path: Path) -> None:
    out = tmp_path / "site"
    ended = call("report", "--all", "--out", str(out), "--results", results)
    assert ended.status == 0
    assert (out / "index.html").exists()
    assert (out / "table-9.tex").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report",), "no table is given"),
        (("report", "--table", "12"), "there is no table '12'"),
        (("report", "--table", "2", "--format", "pdf"), "no format 'pdf'"),
        (("report", "--all"), "give --out DIR"),
        (("sql",), "there is no query"),
    ],
)
def test_mistakes_are_one_sentence(refused, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)


def test_robustbench_goes_in_and_asks_for_what_it_lacks(call, results: str, tmp_path: Path) -> None:
    ended = call("leaderboards", "import", "robustbench", str(tmp_path), "--results", results)
    assert ended.status == 2
    assert "holds no JSON file" in ended.err
    out = str(tmp_path / "x.json")
    ended = call(
        "leaderboards", "export", "robustbench", "nowhere", "--out", out, "--results", results
    )
    assert ended.status == 2
    assert ended.err.startswith("error: ")
