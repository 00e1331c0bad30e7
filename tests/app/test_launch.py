"""The command that starts the app."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from divergence_bench.cli.main import app as command_line


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setattr(
        "streamlit.web.cli.main", lambda arguments, **_: calls.append(list(arguments))
    )
    return calls


def test_it_listens_on_this_machine_and_reports_no_usage(
    started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", "")
    outcome = CliRunner().invoke(command_line, ["app", "--results", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    (arguments,) = started
    assert arguments[0] == "run"
    assert Path(arguments[1]).is_file()
    assert "--server.address=localhost" in arguments
    assert "--browser.gatherUsageStats=false" in arguments
    assert "--server.port=8501" in arguments


def test_another_address_can_be_given(started, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", "")
    options = ["--host", "0.0.0.0", "--port", "9000", "--results", str(tmp_path)]
    assert CliRunner().invoke(command_line, ["app", *options]).exit_code == 0
    assert "--server.address=0.0.0.0" in started[0]
    assert "--server.port=9000" in started[0]


def test_results_that_are_a_file_are_refused(started, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", "")
    file = tmp_path / "harness.duckdb"
    file.touch()
    outcome = CliRunner().invoke(command_line, ["app", "--results", str(file)])
    assert outcome.exit_code
    assert "is a file: give --results the folder" in str(outcome.exception)
    assert not started
