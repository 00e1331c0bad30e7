"""Damaged results folders: commands end with one sentence or with the numbers that were stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from forking import ForkServer
from fuzzing import HANGS_S, assert_ends_well, damaged, damaged_text_file, tries
from hypothesis import given
from hypothesis import strategies as st

from harness.store.rundir import list_runs

pytestmark = pytest.mark.fuzz

TINY = ["--device", "cpu", "--epochs", "1", "--train-limit", "64", "--batch-size", "32",
        "--eval-limit", "12", "--attacks", "apgd-ce", "--set", "evaluation.budget.n_iter=3",
        "--set", "evaluation.chunk_size=6", "--set", "training.monitor.every=1"]  # fmt: skip
RUNS = (["run", "--method", "vanilla", *TINY], ["run", "--method", "trades", *TINY])
METRICS = (
    "SELECT run_id, evaluation_id, name, value, n FROM metrics WHERE evaluation_id IS NOT NULL"
)
# Commands over the folder; A and B are the runs.
COMMANDS = (
    ["list", "runs"], ["list", "runs", "--json"], ["show", "A"], ["report", "--table", "1"],
    ["compare", "A", "B"], ["db", "rebuild"], ["sql", METRICS],
    ["db", "export", "--parquet", "out"], ["sweep", "--methods", "vanilla,trades", "--dry-run"],
    ["evaluate", "A", "--eval-limit", "6"], [*RUNS[0]], [*RUNS[1]],
)  # fmt: skip


@pytest.fixture(scope="module")
def stored(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two finished runs."""
    results = tmp_path_factory.mktemp("stored")
    for command in RUNS:
        server.succeed([*command, "--results", str(results)])
    return results


def files_of(results: Path) -> list[Path]:
    """The files that hold results, as paths in the folder."""
    kinds = (".json", ".jsonl", ".parquet", ".pt", ".duckdb")
    found = [path.relative_to(results) for path in results.rglob("*") if path.suffix in kinds]
    return sorted(found)


def accuracies(server: ForkServer, results: Path) -> set[tuple[Any, ...]]:
    ended = server.run(["sql", METRICS, "--json", "--results", str(results)])
    if ended["code"] != 0:
        assert_ends_well(ended)
        return set()
    return {tuple(row.values()) for row in json.loads(ended["output"])}


@given(data=st.data(), commands=st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=2))
@tries(120, shrink=False)
def test_a_damaged_file(server, stored, tmp_path_factory, tally, data, commands) -> None:
    """Numbers that are shown are those that were stored, or measured again by the same command."""
    results = tmp_path_factory.mktemp("copy") / "results"
    shutil.copytree(stored, results)
    path = results / data.draw(st.sampled_from(files_of(stored)))
    whole = path.read_bytes()
    text = path.suffix in (".json", ".jsonl")
    path.write_bytes(data.draw(damaged_text_file(whole) if text else damaged(whole)))
    names = dict(zip("AB", sorted(run.run_id for run in list_runs(stored)), strict=True))
    before = accuracies(server, stored)
    for command in [*commands, ["db", "rebuild"]]:
        arguments = [names.get(part, part) for part in command]
        arguments = [str(results.parent / "out") if part == "out" else part for part in arguments]
        ended = server.run([*arguments, "--results", str(results)], delay=HANGS_S, group=True)
        tally[f"results folders, {path.suffix}"][assert_ends_well(ended)] += 1
        event = f"{command[:2]} after {path.relative_to(results)}"
        shown = {row for row in accuracies(server, results) if row[0] in names.values()}
        assert shown <= before or "evaluate" in str(commands), (event, shown - before)
    shutil.rmtree(results.parent)
