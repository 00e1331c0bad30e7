"""The cells of a leaderboard page against the printed numbers and hand-made rows."""

import re

import pytest

from app.cells import (
    PRINTED_ORDER,
    Cells,
    Filters,
    ShownNumber,
    chosen_rows,
    file_name,
    is_numeric,
    known_facts,
    styled,
    table_cells,
    table_files,
)
from leaderboards.build import small as small_tables
from leaderboards.build import table, tables
from leaderboards.summary import run_summary
from leaderboards.table import Cell, Number, Row


def printed_cells(number: int, rows=None) -> Cells:
    shown = table(number)
    return table_cells(shown, shown.rows if rows is None else rows, "printed")


def all_texts(cells: Cells) -> list[str]:
    return [text for title in cells.values for text in cells.texts(title)]


@pytest.mark.parametrize("number", [title.number for title in tables()])
def test_every_number_of_a_table_is_a_cell_with_its_value(number) -> None:
    values = [
        value for column in printed_cells(number).values.values() for value in column
        if isinstance(value, ShownNumber)
    ]  # fmt: skip
    shown = [
        cell.printed or cell.logged for row in table(number).rows for cell in row.cells.values()
    ]
    assert sorted(values) == sorted(each.value for each in shown if each)
    assert all(value.text for value in values)


def test_filters_and_search_keep_the_rows_that_fit() -> None:
    shown = table(2)
    rows = chosen_rows(shown, Filters(facts={"augmentation": ["Basic"]}), PRINTED_ORDER)
    assert rows
    assert {row.facts["augmentation"] for row in rows} == {"Basic"}
    assert 0 < len(chosen_rows(shown, Filters("ikl"), PRINTED_ORDER)) < len(shown.rows)
    assert chosen_rows(shown, Filters("no such words"), PRINTED_ORDER) == []
    assert "P" in known_facts(shown, "source")


def test_sorting_puts_the_best_first_within_each_section() -> None:
    shown = table(2)
    column = next(column for column in shown.columns if column.metric == "aa")
    rows = chosen_rows(shown, Filters(), column.title)
    assert sorted(map(id, rows)) == sorted(map(id, shown.rows))
    for group in {row.group for row in rows}:
        values = [
            row.cells[column.key].printed.value
            for row in rows
            if row.group == group and column.key in row.cells and row.cells[column.key].printed
        ]
        assert values == sorted(values, reverse=True)


def test_a_number_has_its_mark_weight_and_interval() -> None:
    shown = table(2)
    rows = [row for row in shown.rows if "IKL" in row.labels[shown.method_label]]
    found = printed_cells(2, rows)
    place = found.values["AA"].index(31.45)
    assert found.texts("AA")[place] == "31.45 [30.5, 32.4]"
    assert found.bold["AA"][place]
    disputed = {
        cell.printed.value
        for row in table(4).rows
        for cell in row.cells.values()
        if cell.printed and cell.printed.disputed
    }
    marked = {
        float(value)
        for column in printed_cells(4).values.values()
        for value in column
        if isinstance(value, ShownNumber) and "!" in value.text
    }
    assert marked == disputed


def test_numbers_are_sorted_as_numbers_and_shown_as_their_text() -> None:
    texts = ["7.50 [6.0, 9.0]", "16.25!", "16.25†", "", "+0.30 ± 0.10"]
    values = [7.5, 16.25, 16.25, None, 0.3]
    cells = Cells()
    cells.add("Method", list("abcde"), "a name")
    numbers = [v and ShownNumber(v, text) for v, text in zip(values, texts, strict=True)]
    cells.add("AA", numbers, "a number", [True, False, False, False, False])
    style = styled(cells, ["Method", "AA"], range(5))
    assert style.data["AA"].tolist() == values
    assert re.findall(r'<td id="[^"]*_col1"[^>]*>([^<]*)</td>', style.to_html()) == texts
    assert is_numeric(cells.values["AA"])
    assert not is_numeric(cells.values["Method"])


def test_a_ranking_puts_rank_and_accuracies_first_and_sorts_them_as_numbers(
    store_run, tmp_path
) -> None:
    for seed in (1, 2):
        store_run(tmp_path, "ikl", "IKL-AT", seed=seed)
    run_id = store_run(tmp_path, "trades", "TRADES", seed=3)
    ranking = run_summary(tmp_path, run_id).table
    cells = table_cells(ranking, ranking.rows)
    titles = list(cells.values)
    assert titles[:3] == ["Method", "#", "Clean"]
    assert cells.values["Method"] == ["IKL-AT", "TRADES"]
    assert cells.texts("#") == ["1-2", "1-2"]
    assert cells.values["#"] == [1, 2]
    assert cells.values["Seeds"] == [2, 1]
    assert cells.values["n"] == [40, 40]
    assert cells.values["AA"][1] == pytest.approx(47.5)
    assert cells.bold["AA"] == [True, False]
    assert all(cells.help.values())
    files = table_files(ranking, ranking.rows, "both")
    assert all(text() for text in files.values())


def test_a_sorted_ranking_keeps_its_ranks_and_puts_the_fastest_first(store_run, tmp_path) -> None:
    for seed, (method, seconds) in enumerate((("ikl", 0.3), ("trades", 0.1), ("mart", 0.2))):
        metrics = {"sec_per_iter": {"value": seconds, "n": 9}}
        run_id = store_run(tmp_path, method, method.upper(), seed=seed, metrics=metrics)
    ranking = run_summary(tmp_path, run_id).table
    rows = chosen_rows(ranking, Filters(), "s/iter")
    cells = table_cells(ranking, rows)
    assert cells.values["s/iter"] == [0.1, 0.2, 0.3]
    assert file_name(ranking).startswith("runs-digits-linf-0.15-")
    assert file_name(table(2)) == "table-2"
    keys = [row.key for row in ranking.rows]
    assert cells.values["#"] == [1 + keys.index(row.key) for row in rows]


@pytest.mark.parametrize("number", [4, 5, 7])
def test_what_print_underlines_has_a_mark(number) -> None:
    marked = sum(text.count("†") for text in all_texts(printed_cells(number)))
    assert marked == sum(each.underlined for each in table(number).numbers) > 0


def test_help_says_what_the_interval_is_and_where_numbers_are_from() -> None:
    help = printed_cells(2).help
    assert "As printed" in help["AA"]
    assert "the 95% interval of one model, computed here for n = 10,000" in help["AA"]
    assert "RobustBench" not in help["AA"]
    cell = Cell(printed=Number(50.0, "RB", low=49.0, high=51.0, n=10_000))
    row = Row("published", ("Some", "WRN", ""), "RobustBench", {"aa": cell})
    help = printed_cells(2, [row]).help
    assert "RobustBench" in help["AA"]
    assert "As printed" not in help["AA"]
    assert help["Method"] == "Method, as its source names it."
    small, _ = small_tables(None)
    help = table_cells(small, [Row("ours", ("Some", "WRN", "2"), "digits", {"aa": cell})]).help
    assert help["Seeds"].startswith("Number of averaged runs")
    assert not any("brackets" in text for text in printed_cells(5).help.values())
