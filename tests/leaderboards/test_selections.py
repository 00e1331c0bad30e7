"""Tables of which a reader keeps some rows: every format takes whatever is left."""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from leaderboards import build
from leaderboards.render.latex import to_latex
from leaderboards.render.report import TEXT, text_of
from leaderboards.render.terminal import print_table
from leaderboards.render.text import rows_with_numbers
from leaderboards.table import Row, Table
from tests.leaderboards.conftest import adding_to

NUMBERS = [title.number for title in build.tables()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    add_run = adding_to(results)
    paper = {"n": 10000, "dataset": "cifar100", "scale": "paper"}
    ikl = {"wmse_weight": 20, "ce_weight": 3, "temperature": 4}
    attacked = paper | {"arch": "wrn-34-10", "protocol": {"eps": 8 / 255}}
    add_run("IKL", (6600, 3500, 3140, 3140, 3140), params=ikl, **attacked)
    distilled = paper | {"task": "distillation", "attacks": (), "teacher": "resnet56"}
    add_run("KD", (7100,), arch="resnet20", **distilled)
    add_run("KD", (7000,), arch="resnet14", params={"temperature": 2}, **distilled)
    add_run("KL", (340, 280, 270, 268, 262))
    return results


@pytest.fixture(scope="module")
def tables(results: Path) -> dict[int, Table]:
    return {number: build.table(number, results) for number in NUMBERS}


def is_printed(row: Row) -> bool:
    return any(cell.printed for cell in row.cells.values())


def is_ours(row: Row) -> bool:
    return any(cell.ours for cell in row.cells.values())


SELECTIONS: dict[str, Callable[[Row], bool]] = {
    "nothing printed": lambda row: row.kind == "ours",
    "nothing of ours": lambda row: is_printed(row) and not is_ours(row),
    "nothing at all": lambda row: False,
    "heads alone": lambda row: row.kind == "head",
    "differences alone": lambda row: row.kind == "difference",
    "no heads": lambda row: row.kind != "head",
}


def terminal(table: Table, width: int) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="utf-8")
    print_table(table, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("what", SELECTIONS)
def test_every_format_takes_every_selection(
    tables: dict[int, Table], number: int, what: str
) -> None:
    whole = tables[number]
    rows = tuple(row for row in whole.rows if SELECTIONS[what](row))
    table = dataclasses.replace(whole, rows=rows)
    texts = {name: text_of(table, name) for name in TEXT}
    texts["as printed"] = to_latex(table, ours=False)
    texts["terminal"] = terminal(table, 80)
    for name, text in texts.items():
        assert text, name
    shown = {f"{number.value:.2f}".lstrip("-") for number in table.numbers if number.run_ids}
    assert shown or not any(map(is_ours, rows))
    for name in ("latex", "markdown", "terminal"):
        assert shown <= set(re.findall(r"\d+\.\d+", texts[name])), name
    for name in ("latex", "as printed"):
        assert texts[name].count(r"\begin{tabular}") == texts[name].count(r"\end{tabular}")
        if not any(row.kind == "printed" for row in rows):
            assert r"\multirow{0}" not in texts[name]


def last_block(table: Table, width: int = 80) -> str:
    text = terminal(table, width)
    _, block = text[: text.index("\nP  printed")].rsplit("continued", 1)
    return block


def test_a_further_block_has_only_rows_with_a_number_in_it(tables: dict[int, Table]) -> None:
    # Wang et al. is what others are compared with, so it has no difference itself.
    gains = last_block(build.table(2), 66)
    assert "AWP [25]" in gains
    assert "35.65" not in gains
    assert "Wang et al." not in gains
    for number in (5, 7):
        # Its one number stands in the column of other networks.
        assert terminal(tables[number], 80).count("KD, resnet14") == 1


def names(rows: Sequence[Row]) -> list[str]:
    return [row.labels[0] for row in rows]


def test_a_view_leaves_out_rows_that_have_no_number_in_it(tables: dict[int, Table]) -> None:
    rows = tables[5].rows
    assert rows_with_numbers(rows) == list(rows)
    assert all(row.kind != "ours" for row in rows_with_numbers(rows, ours=False))
    assert names(rows_with_numbers(rows, columns=["other"])) == ["KD, resnet14 from resnet56"]
    assert rows_with_numbers(rows, ours=False, columns=["other"]) == []
