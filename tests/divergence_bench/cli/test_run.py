"""The verb ``run``: its plan, and a results folder that cannot be written."""

import json
import os
from pathlib import Path

import pytest


def test_a_dry_run_writes_nothing(call, tmp_path: Path) -> None:
    ended = call(
        "run", "--method", "trades", "--dry-run", "--json", "--results", str(tmp_path / "r")
    )
    plan = json.loads(ended.out)
    assert plan["training"] == "missing"
    assert plan["config"]["data"]["name"] == "digits"
    assert not (tmp_path / "r").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file in the folder's place only as root")
def test_an_unwritable_results_folder_is_named(refused, tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("a file")
    assert str(path) in refused("run", "--method", "trades", "--results", str(path))
