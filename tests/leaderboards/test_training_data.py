"""Runs are ranked only with those of the same training data, and every table names it."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from leaderboards import build
from leaderboards.build import field, small
from leaderboards.field import UNKNOWN
from leaderboards.summary import run_summary
from leaderboards.table import Row, Table
from tests.leaderboards.entries import FULL

AddRun = Callable[..., str]
LEFT = (8600, 6000, 5800, 5750, 5700)
TEN = FULL | {"dataset": "cifar10"}
LOADED = {
    "kind": "loaded", "method": None, "method_title": None, "task": None, "config": None,
    "recipe": None, "selection": None, "source": {"source": "robustbench:Carmon2019Unlabeled"},
}  # fmt: skip
GENERATED = {"config": {"data": {"generated_name": "ddpm-10m"}}}


@pytest.fixture
def ids(add_run: AddRun) -> dict[str, str]:
    """Runs of one protocol and of all kinds of training data, by the kind."""
    return {
        "Basic": add_run("Yours", LEFT, **TEN),
        "10M Generated Data": add_run("Mine", (8700, 6200, 6100, 6050, 6040), **TEN | GENERATED),
        "unknown": add_run("x", (8900, 6300, 6000, 5950, 5953), **TEN | LOADED),
    }


def row_of(table: Table, run_id: str) -> Row:
    (row,) = [row for row in table.rows if run_id in row.run_ids and row.kind == "ours"]
    return row


def test_a_table_has_a_section_for_each_kind(ids: dict[str, str], tmp_path: Path) -> None:
    table = build.table(4, tmp_path)
    sections = set()
    for data, run_id in ids.items():
        row = row_of(table, run_id)
        assert (row.labels[2], row.facts["augmentation"]) == (data, data)
        assert [own.run_ids for own in table.rows if own.group == row.group] == [(run_id,)]
        # There is nothing in its section to be better than.
        assert not any(number.bold for number in row.numbers)
        sections.add(row.group.partition("n = 10,000")[2])
    assert sections == {"", ", 10M Generated Data", ", training data unknown"}


def test_a_loaded_model_is_ranked_apart_in_the_field(ids: dict[str, str], tmp_path: Path) -> None:
    rows = field(4, tmp_path).rows
    (row,) = [row for row in rows if row.group == UNKNOWN]
    assert row.run_ids == (ids["unknown"],)
    assert (row.rank, row.labels[3]) == ("1", "unknown")
    assert rows[-1] == row


def test_a_loaded_model_is_apart_at_small_scale(add_run: AddRun, tmp_path: Path) -> None:
    left = (340, 280, 270, 268, 262)
    kinds = ({}, GENERATED, LOADED)
    groups = []
    for seed, fields in enumerate(kinds):
        run_id = add_run("A", left, seed=seed, **fields)
        groups.append(row_of(small(tmp_path)[0], run_id).group)
    assert groups[1:] == [f"{groups[0]}, 10M Generated Data", f"{groups[0]}, training data unknown"]


@pytest.mark.parametrize("data", ["Basic", "10M Generated Data", "unknown"])
def test_a_run_is_ranked_with_its_own_kind(ids: dict[str, str], tmp_path: Path, data: str) -> None:
    summary = run_summary(tmp_path, ids[data])
    table, first = summary.table, summary.table.rows[0]
    place = table.labels.index("Training data")
    own = [row for row in table.rows if row.group == first.group]
    assert {row.labels[place] for row in own} == {data}
    assert any(row.own for row in own)
    printed = {row.labels[1] for row in table.rows if row.kind == "printed"}
    is_generated = data == "10M Generated Data"
    basic, generated = {"AWP", "LAS-AT", "ACAT", "IKL-AT"}, {"Sehwag et al. (proxy distributions)"}
    assert printed == (generated if is_generated else basic)
    kinds = {row.labels[place] for row in table.rows if row.kind == "printed"}
    assert kinds == {data if is_generated else "Basic"}
    # Ranks begin again in each section.
    others = [row for row in table.rows if row.group != first.group]
    ranks = {row.group: row.labels[0] for row in reversed(others)}
    # The printed row with generated data has its best epoch on test.
    assert [rank[0] for rank in ranks.values()] == ["1"] * (2 + is_generated)
    assert {row["augmentation"] for row in summary.to_json()["rows"]} == set(ids)
    console = Console(file=io.StringIO(), width=100)
    summary.render(console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "Training data" in text.splitlines()[1]
    assert "each kind of training data is ranked on its own" in " ".join(text.split())


def test_training_data_is_named_only_where_it_says_something(
    add_run: AddRun, tmp_path: Path
) -> None:
    run_ids = [
        add_run("A", LEFT, seed=seed, **TEN | {"n": 10_000 + seed} | fields)
        for seed, fields in enumerate(({}, GENERATED, LOADED))
    ]
    tables = [run_summary(tmp_path, run_id).table for run_id in run_ids]
    assert ["Training data" in table.labels for table in tables] == [False, True, True]
    # Beside a loaded model are printed rows of the training set alone.
    kinds = [{row.facts["augmentation"] for row in table.rows} for table in tables]
    assert [len(each) for each in kinds] == [1, 1, 2]
    # The printed row with generated data has its best epoch on test, and is ranked on its own.
    assert [len({row.group for row in table.rows}) for table in tables] == [1, 2, 2]
