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


def test_a_sweep_ends_with_a_ranking_for_each_kind_of_run(call, tmp_path: Path) -> None:
    """An epoch that was selected on test images is not ranked with the last one, but shown."""
    (tmp_path / "study.yaml").write_text(
        """
set: {training.epochs: 1, data.train_limit: 64, evaluation.attacks: none, evaluation.limit: 20}
runs:
- {method: vanilla}
- {method: vanilla, set: {training.optimizer.lr: 0.01}}
- {method: vanilla, set: {training.selection.rule: best-on-test}}
"""
    )
    command = ("sweep", str(tmp_path / "study.yaml"), "--results", str(tmp_path / "results"))
    answer = json.loads(call(*command, "--device", "cpu", "--json").out)
    ranked = [
        {one for row in table["rows"] for one in row["run_ids"]} for table in answer["tables"]
    ]
    first, second, third = (run["run_id"] for run in answer["runs"])
    assert ranked == [{first, second}, {third}]
