"""The cells of a leaderboard page against the printed numbers and hand-made rows."""

import io

import pandas as pd

from app.labels import BADGE_LEGEND
from app.tabular import (
    PRINTED_ORDER,
    Filters,
    chosen_rows,
    known_facts,
    markdown,
    numbers_csv,
    shown,
)
from leaderboards.build import table, tables
from leaderboards.printed import load_reported
from leaderboards.ranking import Entry, Score
from leaderboards.table import Cell, Number, Row


def test_every_printed_number_of_the_tables_is_in_a_cell() -> None:
    printed = load_reported()
    for title in tables():
        rendered = table(title.number)
        rows = chosen_rows(rendered, Filters(), PRINTED_ORDER)
        cells = shown(rendered, rows, printed=True, ours=False).cells
        texts = [text for column in cells for text in cells[column]]
        for value in printed[printed["table"] == title.number]["value"]:
            wanted = (f"{value:.2f}", f"{value:+.2f}", f"{value:.3f}")
            assert any(text.startswith(wanted) for text in texts), (title.number, value)


def test_filters_and_search_keep_the_rows_that_fit() -> None:
    rendered = table(2)
    basic = Filters(facts={"augmentation": ["Basic"]})
    rows = chosen_rows(rendered, basic, PRINTED_ORDER)
    assert rows
    assert {row.facts["augmentation"] for row in rows} == {"Basic"}
    assert len(chosen_rows(rendered, Filters("ikl"), PRINTED_ORDER)) < len(rendered.rows)
    assert chosen_rows(rendered, Filters("no such words"), PRINTED_ORDER) == []
    assert "P" in known_facts(rendered, "source")


def test_sorting_puts_the_best_first_within_each_section() -> None:
    rendered = table(2)
    column = next(column for column in rendered.columns if column.metric == "aa")
    rows = chosen_rows(rendered, Filters(), column.title)
    assert sorted(map(id, rows)) == sorted(map(id, rendered.rows))
    for group in {row.group for row in rows}:
        values = [
            row.cells[column.key].printed.value
            for row in rows
            if row.group == group and column.key in row.cells and row.cells[column.key].printed
        ]
        assert values == sorted(values, reverse=True)


def test_a_number_wears_its_mark_weight_and_interval() -> None:
    rendered = table(2)
    rows = [row for row in rendered.rows if "IKL" in row.labels[rendered.method_label]]
    found = shown(rendered, rows, printed=True, ours=False)
    place = found.cells["AA"].str.startswith("31.45").idxmax()
    assert found.cells["AA"][place].endswith("[30.5, 32.4]")
    assert found.bold["AA"][place]
    disputed = {
        cell.printed.value
        for row in table(4).rows
        for cell in row.cells.values()
        if cell.printed and cell.printed.disputed
    }
    marked = shown(table(4), table(4).rows, printed=True, ours=False).cells
    texts = [text for column in marked for text in marked[column] if "!" in text]
    assert {float(text.partition("!")[0]) for text in texts} == disputed


def test_runs_are_saved_as_numbers_not_as_text() -> None:
    scores = {"clean": Score(0.75, 0.7, 0.8), "aa": Score(0.5, std=0.01)}
    entry = Entry("A", "net", "S", scores, seeds=2, n=40, run_ids=("x", "y"), rank="1=")
    frame = pd.read_csv(io.StringIO(numbers_csv([entry])))
    assert frame["metric"].tolist() == ["clean", "aa"]
    assert frame["value"].tolist() == [0.75, 0.5]
    assert frame["std"].iloc[1] == 0.01
    assert frame["low"].iloc[0] == 0.7
    assert set(frame["run_ids"]) == {"x y"}


def test_markdown_cells_cannot_break_their_table() -> None:
    cells = shown(table(1), table(1).rows, printed=True, ours=False).cells
    cells.iloc[0, 0] = "a | b"
    lines = markdown(cells).splitlines()
    assert len(lines) == len(cells) + 2
    assert lines[2].startswith(r"| a \| b |")


def test_what_print_underlines_wears_a_mark() -> None:
    for number in (4, 5, 7):
        rendered = table(number)
        cells = shown(rendered, rendered.rows, printed=True, ours=False).cells
        marked = sum(text.count("†") for column in cells for text in cells[column])
        assert marked == sum(each.underlined for each in rendered.numbers) > 0


def test_a_heads_help_says_whose_the_interval_is_and_where_numbers_are_from() -> None:
    rendered = table(2)
    help = shown(rendered, rendered.rows, printed=True, ours=False).help
    assert "As printed" in help["AA"]
    assert "Wilson 95% interval of one model, computed here for n = 10,000" in help["AA"]
    assert "RobustBench" not in help["AA"]
    cell = Cell(printed=Number(50.0, "RB", low=49.0, high=51.0, n=10_000))
    row = Row("published", ("Some", "WRN", ""), "RobustBench", {"aa": cell})
    help = shown(rendered, [row], printed=True, ours=False).help
    assert "RobustBench" in help["AA"]
    assert "As printed" not in help["AA"]
    assert "as the paper prints it" not in help["Method"]
    distilled = table(5)
    help = shown(distilled, distilled.rows, printed=True, ours=False).help
    assert not any("brackets" in text for text in help.values())


def test_the_legend_explains_every_sign() -> None:
    assert all(f"**{sign}**" in BADGE_LEGEND for sign in ("P", "RB", "L", "R", "S", "!", "?"))
