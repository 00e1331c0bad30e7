"""The verb ``list``: its rows, in a pipe and on terminals of several widths."""

import io
import json

import pytest
from rich.console import Console

from divergence_bench.cli.tables import print_rows
from harness.registry import METHODS

RUN = "digits-resnet8-dkl-s0-0123456789"
NOTE = "a note that is longer than the width of the terminal, with a word at its end: " + "w" * 60
ROWS = [
    {
        "run": RUN,
        "model": "wrn-34-10",
        "weights": "--weights FILE, or c.pt, downloaded",
    },
    {"run": f"{RUN}-2", "model": "preact-resnet18", "weights": "published with timm"},
]


def printed(rows: list[dict[str, str]], *, width: int, terminal: bool) -> list[str]:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        color_system=None,
        legacy_windows=False,
    )
    print_rows("runs", rows, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_row_is_one_line_of_whole_values_in_a_pipe(width: int) -> None:
    _, *lines = printed(ROWS, width=width, terminal=False)
    assert len(lines) == len(ROWS)
    for line, row in zip(lines, ROWS, strict=True):
        assert all(value in line for value in row.values())


def test_a_note_is_one_line_in_a_pipe() -> None:
    lines = printed([{**ROWS[0], "note": NOTE}], width=80, terminal=False)
    assert lines[-1] == f"note on {RUN}: {NOTE}"


@pytest.mark.parametrize("width", [63, 70, 80])
def test_a_cell_wraps_between_words_on_a_terminal(width: int) -> None:
    lines = printed(ROWS, width=width, terminal=True)
    assert len(lines) > 1 + len(ROWS)
    assert max(map(len, lines)) <= width
    words = {word for row in ROWS for value in row.values() for word in value.split()}
    assert words == {word for line in lines[1:] for word in line.split()}


def test_rows_are_whole_where_a_terminal_is_too_narrow_for_their_words() -> None:
    assert printed(ROWS, width=50, terminal=True) == printed(ROWS, width=50, terminal=False)


@pytest.mark.parametrize("kind", ["methods", "recipes", "datasets", "models"])
def test_list_has_rows(call, kind: str) -> None:
    assert len(json.loads(call("list", kind, "--json").out)) >= 5


def test_a_tables_recipe_names_its_method_and_carries_its_note(call) -> None:
    listed = json.loads(call("list", "recipes", "--table", "6", "--json").out)
    assert {row["method"] for row in listed} == {"ikl"}
    assert [row["recipe"] for row in listed if "63.59" in (row["note"] or "")] == [
        "table6/ikl-a24-b3"
    ]
    assert (
        "note on table6/ikl-a24-b3: Tables 6 and 8" in call("list", "recipes", "--table", "6").out
    )
    plan = json.loads(call("run", "--recipe", "table6/ikl-a24-b3", "--dry-run", "--json").out)
    assert plan["config"]["method"] == "ikl"
    assert plan["config"]["params"]["wmse_weight"] == 24


def test_the_methods_fit_a_terminal_and_json_has_them_whole(call) -> None:
    lines = call("list", "methods", columns=80).out.splitlines()
    rows = json.loads(call("list", "methods", "--json").out)
    assert len(lines) == 1 + len(rows)
    assert max(map(len, lines)) <= 80
    (ikl,) = (row for row in rows if row["method"] == "ikl")
    assert ikl["tables"] == [1, 2, 4, 6, 8, 9]
    assert ikl["summary"].endswith("as weights.")
    (line,) = (line for line in lines if line.startswith("ikl "))
    assert line.split()[:8] == ["ikl", "adversarial", *"124689"]


def test_datasets_are_listed_with_sizes_and_radius(call) -> None:
    rows = {row["dataset"]: row for row in json.loads(call("list", "datasets", "--json").out)}
    assert rows["cifar10"] == {
        "dataset": "cifar10", "classes": 10, "image": [3, 32, 32], "train": 50000, "test": 10000,
        "eps": 8 / 255,
    }  # fmt: skip
    lines = [line.split() for line in call("list", "datasets").out.splitlines()]
    assert ["cifar10", "10", "3x32x32", "50000", "10000", "8/255"] in lines
    assert "folder:PATH;" in lines[-1]


def test_a_method_that_cannot_be_loaded_is_named_beside_the_others(call) -> None:
    with METHODS.temporarily("broken", "no_such_module:METHOD"):
        rows = {row["method"]: row for row in json.loads(call("list", "methods", "--json").out)}
        printed = call("list", "methods").out
        recipes = call("list", "recipes", "--table", "6")
    assert "no_such_module" in rows["broken"]["note"]
    assert rows["ikl"]["family"] == "adversarial"
    assert "note on broken: method 'broken' cannot be loaded" in printed
    assert "table6/ikl-a24-b3" in recipes.out
