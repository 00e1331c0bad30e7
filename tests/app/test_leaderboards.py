"""The page Leaderboards: sections, choices, downloads and commands, over printed and own rows."""

import csv
import io
import itertools
from pathlib import Path

import pytest

from app.cells import (
    PRINTED_ORDER,
    VIEWS,
    Filters,
    chosen_rows,
    known_facts,
    sides,
    table_cells,
    table_files,
)
from app.components import with_results
from leaderboards.build import table, tables
from leaderboards.render.text import sections


@pytest.fixture(scope="module")
def own_rows(tmp_path_factory, store_run) -> Path:
    """A results folder with two runs in Table 2 at the paper's scale, and a small one.

    The two are in the opposite order of the printed numbers.
    """
    results = tmp_path_factory.mktemp("own")
    for seed, (method, title) in enumerate({"acat": "ACAT", "at-awp": "AWP"}.items(), 1):
        store_run(
            results,
            method,
            title,
            seed=seed,
            dataset="cifar100",
            arch="wrn-34-10",
            scale="paper",
            recipe=f"table2/{method}",
            eps=8 / 255,
            n=10_000,
        )
    store_run(results, "ikl", "IKL-AT", seed=2)
    return results


@pytest.mark.parametrize("number", [title.number for title in tables()])
def test_each_section_is_a_frame_under_its_name(open_page, empty, number) -> None:
    full = table(number)
    at = open_page("leaderboards", empty, table=str(number), view="as data")
    groups = list(dict.fromkeys(row.group for row in full.rows))
    assert [len(frame.value) for frame in at.dataframe] == [
        len(own) for _, own in sections(full.rows)
    ]
    if len(groups) > 1:
        markdown = [box.value.replace("\\", "") for box in at.markdown]
        for group in groups:
            assert f"**{group} {full.panels.get(group, '')}".strip() + "**" in markdown
    assert "Section" not in at.dataframe[0].value


@pytest.mark.parametrize("view", VIEWS)
def test_downloads_hold_the_rows_and_numbers_that_are_shown(own_rows, view) -> None:
    full = table(2, own_rows)
    rows = sides(chosen_rows(full, Filters("awp"), PRINTED_ORDER), view)
    files = table_files(full, rows, view)
    lines = list(csv.DictReader(io.StringIO(files["CSV"]())))
    expected = [
        number.value
        for row in rows
        for cell in row.cells.values()
        for number in cell.numbers
        if view == "both" or (number is cell.ours) == (view == "ours")
    ]
    assert expected
    assert [float(line["value"]) for line in lines] == expected
    assert {"metric", "badge", "low", "high", "run_ids"} <= set(lines[0])
    badges = {line["badge"] for line in lines}
    assert ("R" in badges) == (view != "printed")
    assert ("P" in badges) == (view != "ours")
    body = [line for line in files["Markdown"]().splitlines() if line.startswith("| AWP")]
    assert len(body) == sum(row.labels[0].startswith("AWP") for row in rows)
    assert any(" R" in line for line in body) == (view != "printed")


def test_every_table_view_source_and_search_is_shown_and_saved(own_rows) -> None:
    for title, results in itertools.product(tables(), (None, own_rows)):
        full = table(title.number, results)
        sources = [[], *([source] for source in known_facts(full, "source"))]
        for words, source, view in itertools.product(("", "ikl", "a"), sources, VIEWS):
            filters = Filters(words, {"source": source})
            for sort in (PRINTED_ORDER, full.columns[-1].title):
                rows = sides(chosen_rows(full, filters, sort), view)
                if not rows:
                    continue
                cells = table_cells(full, rows, view)
                assert list(cells.help) == list(cells.values) == list(cells.bold)
                columns = [*cells.values.values(), *cells.bold.values()]
                assert {len(column) for column in columns} == {len(rows)}
            if rows:
                files = table_files(full, rows, view)
                assert all(files[name]() for name in ("CSV", "LaTeX", "Markdown"))


def test_rows_are_sorted_by_the_numbers_shown(open_page, own_rows) -> None:
    query = {"table": "2", "show": "ours", "view": "as data", "sort": "AA"}
    (frame,) = open_page("leaderboards", own_rows, **query).dataframe
    values = frame.value["AA (ours)"].tolist()
    assert len(values) == 2
    assert values == sorted(values, reverse=True)
    printed = {row.facts["method"]: row.cell("aa").printed for row in table(2).rows}
    assert printed["at-awp"].value < printed["acat"].value
    assert frame.value["Method"].iloc[0].startswith("AWP")


def test_commands_name_the_folder_that_is_shown(open_page, small_store, monkeypatch) -> None:
    results, ids = small_store
    expected = f" --results {results}"
    for name, query in (
        ("leaderboards", {"table": "8"}),
        ("leaderboards", {"table": "5"}),
        ("methods", {"m": "ikl"}),
        ("run", {"run": ids["a"]}),
    ):
        codes = [box.value for box in open_page(name, results, **query).code]
        commands = [text for text in codes if text.startswith("python -m harness")]
        assert commands
        assert all(expected in text for text in commands), commands
    monkeypatch.chdir(results.parent)
    monkeypatch.setenv("HARNESS_RESULTS", "results")
    assert with_results("python -m harness run") == "python -m harness run"
    assert with_results("run --results x") == "run --results x"
    monkeypatch.setenv("HARNESS_RESULTS", "two words")
    assert with_results("run") == "run --results 'two words'"


def test_a_command_for_a_further_run_makes_another(open_page, store_run, tmp_path) -> None:
    store_run(tmp_path, "ikl", "IKL-AT", status="started")
    at = open_page("compare", tmp_path)
    assert "another run" in at.info[0].value
    assert at.code[0].value.startswith("python -m harness run --method trades")
