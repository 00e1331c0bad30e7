"""The cells of a leaderboard page against the printed numbers and hand-made rows."""

from app.tabular import PRINTED_ORDER, Filters, chosen_rows, known_facts, markdown, shown
from leaderboards.assembly import table, tables
from leaderboards.reported import load_reported


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


def test_markdown_cells_cannot_break_their_table() -> None:
    cells = shown(table(1), table(1).rows, printed=True, ours=False).cells
    cells.iloc[0, 0] = "a | b"
    lines = markdown(cells).splitlines()
    assert len(lines) == len(cells) + 2
    assert lines[2].startswith(r"| a \| b |")
