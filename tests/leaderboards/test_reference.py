"""The reference runs in the repository are complete, and their pages say what they hold."""

import re
from pathlib import Path

import pytest

from divergence_bench.cli.main import command
from harness.experiment.sweep import SweepSpec, read_spec, rows
from harness.store.exchange import import_
from leaderboards.reference import REFERENCE, reference_runs

PAGE = (REFERENCE / "README.md").read_text()
FOLDERS = sorted(path.parent.name for path in REFERENCE.glob("*/manifest.json"))
STUDIES = sorted(path.stem for path in REFERENCE.glob("*.yaml"))


def test_the_table_is_the_report_of_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--table", "small", "--format", "markdown", "--results", str(tmp_path)]
    command("report").main(arguments, standalone_mode=False)
    assert capsys.readouterr().out == (REFERENCE / "small-scale.md").read_text()


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_the_runs_of_its_file(study: str) -> None:
    spec = read_spec(REFERENCE / f"{study}.yaml", SweepSpec)
    planned = {row.config.run_id for row in rows(spec)}
    stored = reference_runs().query(
        "SELECT DISTINCT run_id FROM runs JOIN verdicts USING (run_id) WHERE status = 'success'"
    )
    assert planned <= set(stored["run_id"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_page_says_how_to_import_each_folder(folder: str, tmp_path: Path) -> None:
    assert f"python -m harness db import results/reference/{folder}\n" in PAGE
    merged = import_(tmp_path, REFERENCE / folder)
    assert merged.added
    assert not merged.conflicts
    assert not merged.left_out


def test_the_page_compares_runs_that_are_there() -> None:
    (named,) = re.findall(r"^python -m harness compare (.+)$", PAGE, re.MULTILINE)
    assert set(named.split()) <= set(reference_runs().query("SELECT run_id FROM runs")["run_id"])
