"""The verb ``sweep``: tables of the paper as sweeps."""

import json
from pathlib import Path


def test_a_table_is_a_sweep_of_its_recipes(call, tmp_path: Path) -> None:
    command = ("sweep", "--dry-run", "--json", "--results", str(tmp_path / "none"))
    given = json.loads(call(*command, "--table", "1").out)["runs"]
    assert len(given) > 3
    assert all(run["recipe"].startswith("table1/") for run in given)
    (tmp_path / "study.yaml").write_text("table: 1\nrecipes: [table2/lbgat]\n")
    read = json.loads(call(*command, str(tmp_path / "study.yaml"), "--seeds", "1").out)["runs"]
    assert [run["run_id"] for run in read[:-1]] == [run["run_id"] for run in given]
    assert read[-1]["names"] == ["table2/lbgat"]
    assert not (tmp_path / "none").exists()


def test_a_table_that_the_paper_does_not_have_is_refused(refused) -> None:
    for command in (("sweep", "--dry-run"), ("list", "recipes")):
        assert "value for '--table': Input should be less than or equal to 9" in refused(
            *command, "--table", "77"
        )


def test_a_file_lists_its_own_runs(refused, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("methods: [kl]\n")
    assert "leave --table out" in refused("sweep", str(tmp_path / "study.yaml"), "--table", "1")
