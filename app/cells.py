"""The cells of a leaderboard: the rows and numbers shown, as a table and as files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from app.components import number_column, show_table, text_column
from leaderboards.render.bibtex import to_bibtex
from leaderboards.render.cells import PLUS_MINUS, number_text
from leaderboards.render.data import to_csv
from leaderboards.render.latex import to_latex
from leaderboards.render.markdown import to_markdown
from leaderboards.table import (
    LOGGED,
    OURS_ROW,
    PRINTED,
    PUBLISHED_ROW,
    ROBUSTBENCH,
    Cell,
    Column,
    Number,
    Row,
    Table,
)

# The order of a table of the paper, and of any other table.
PRINTED_ORDER, LISTED_ORDER = "as printed", "as listed"
UNDERLINED = "†"
OURS = " (ours)"
FROM_PRINT = " (ours - printed)"
RANK = "#"
VIEWS = ("both", "printed", "ours")
LABEL_HELP = {
    RANK: "The ranks that the 95% intervals allow, by the accuracy named in the caption.",
    "Method": "The method's name, with its recipe if that distinguishes rows.",
    "Architecture": "The architecture, with its teacher if it has one.",
    "Training data": "Basic is the training set alone; that of a model loaded here is unknown.",
    "Seeds": "Number of averaged runs, which differ only in the seed.",
    "n": "Number of test images.",
    "Src": "Where numbers come from: P printed, L authors' log, RB RobustBench, R and S here.",
}
METRIC_HELP = {
    "clean": "Accuracy on clean test images, percent.",
    "aa": "Accuracy under AutoAttack, percent.",
    "sec_per_iter": "Median seconds per optimiser step.",
}
ORIGINS = {
    PRINTED: "As printed.",
    LOGGED: "From the authors' log where the paper prints none.",
    ROBUSTBENCH: "As published by RobustBench, in its rows.",
}
# Streamlit does not measure bold text when it chooses a column's width. The first column is pinned
# and must leave room for numbers on a phone.
CHARACTER_PIXELS, BOLD_CHARACTER_PIXELS, PADDING_PIXELS = 7, 8, 24
MAX_COLUMN_PIXELS, MAX_PINNED_PIXELS = 240, 180


class ShownNumber(float):
    """A number to sort by, with the text that is shown in its place."""

    text: str

    def __new__(cls, value: float, text: str) -> ShownNumber:
        """Create a number with its text."""
        number = super().__new__(cls, value)
        number.text = text
        return number


@dataclass
class Cells:
    """A table as a page shows it.

    Attributes:
        values: column title to its cells, which are texts, or ``ShownNumber`` and None.
        bold: the same shape; whether a value is bold in print, or the best of a ranking.
        help: column title to its help text.
    """

    values: dict[str, list[Any]] = field(default_factory=dict)
    bold: dict[str, list[bool]] = field(default_factory=dict)
    help: dict[str, str] = field(default_factory=dict)

    def add(
        self, title: str, values: Sequence[Any], help: str, bold: Sequence[bool] | None = None
    ) -> None:
        """Add a column on the right."""
        self.values[title] = list(values)
        self.bold[title] = list(bold or [False] * len(values))
        self.help[title] = help

    def texts(self, title: str) -> list[str]:
        """The texts shown in a column."""
        return [shown_text(value) for value in self.values[title]]


@dataclass(frozen=True)
class Filters:
    """Which rows to show; an empty choice keeps all.

    Attributes:
        words: text that a row must contain, in lower case.
        facts: name in ``Row.facts`` to the values to keep; a row may have several sources.
    """

    words: str = ""
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def fits(self, row: Row) -> bool:
        """Whether the row is shown."""
        text = " ".join([*row.labels, row.group, *row.facts.values()]).lower()
        return self.words in text and all(
            not kept or set(kept) & set(row.facts.get(name, "").split(","))
            for name, kept in self.facts.items()
        )


def known_facts(table: Table, name: str) -> list[str]:
    """The values of a fact in a table, in order of appearance."""
    values = [value for row in table.rows for value in row.facts.get(name, "").split(",")]
    return [value for value in dict.fromkeys(values) if value]


def chosen_rows(table: Table, filters: Filters, sort: str) -> list[Row]:
    """The matching rows, best first by the column whose title is ``sort``, or in the table's order.

    Sections stay together; a row without the number goes to the end of its section.
    """
    rows = [row for row in table.rows if filters.fits(row)]
    column = next((column for column in table.columns if column.title == sort), None)
    if column is None:
        return rows
    groups = list(dict.fromkeys(row.group for row in rows))

    def place(row: Row) -> tuple[int, bool, float]:
        cell = row.cell(column.key)
        number = cell.printed or cell.ours or cell.logged
        if number is None:
            return groups.index(row.group), True, 0.0
        value = number.value if column.lower_is_better else -number.value
        return groups.index(row.group), False, value

    return sorted(rows, key=place)


def table_cells(table: Table, rows: Sequence[Row], view: str = "both") -> Cells:
    """The cells of some rows of a paper's table or of a ranking.

    ``view`` applies to a paper's table: ``printed``, ``ours``, or ``both`` side by side.
    """
    cells = Cells()
    # Numbers come right after the method, so that a phone shows them; other labels come last.
    leading = [table.method_label, *([table.labels.index(RANK)] if table.ranked_by else [])]
    for place in leading:
        _add_label(cells, table, rows, place)
    for column in table.columns:
        found = [row.cell(column.key) for row in rows]
        if table.ranked_by:
            _add_numbers(cells, table, column, rows, [row.number(column.key) for row in rows])
            continue
        if view != "ours":
            published = [cell.printed or cell.logged for cell in found]
            _add_numbers(cells, table, column, rows, published)
        if view != "printed":
            _add_numbers(cells, table, column, rows, [cell.ours for cell in found], OURS)
        gaps = [cell.ours.from_print if cell.ours else None for cell in found]
        if view == "both" and any(gap is not None for gap in gaps):
            values = [None if gap is None else ShownNumber(gap, f"{gap:+.2f}") for gap in gaps]
            cells.add(column.title + FROM_PRINT, values, "Our number minus the printed one.")
    if not table.ranked_by:
        cells.add("Source", [row.facts.get("source", "") for row in rows], LABEL_HELP["Src"])
    for place in range(len(table.labels)):
        if place not in leading:
            _add_label(cells, table, rows, place)
    return cells


def _add_label(cells: Cells, table: Table, rows: Sequence[Row], place: int) -> None:
    title = table.labels[place]
    values: list[Any] = [row.labels[place] for row in rows]
    if table.ranked_by:
        help = LABEL_HELP[title]
        ranking = [row.number(table.ranked_by) for row in rows]
        places = {row.key: place for place, row in enumerate(table.rows, 1)}
        by_title: dict[str, list[int | None]] = {
            # A row's place in the ranking, however the rows are sorted now.
            RANK: [places[row.key] for row in rows],
            "Seeds": [number.seeds if number else None for number in ranking],
            "n": [number.n if number else None for number in ranking],
        }
        numbers = by_title.get(title, [])
        if numbers:
            values = [n and ShownNumber(n, text) for n, text in zip(numbers, values, strict=True)]
    else:
        outside = any(row.kind in (PUBLISHED_ROW, OURS_ROW) for row in rows)
        help = f"{title}, as {'its source names it' if outside else 'printed'}."
        help = LABEL_HELP[title] if title == "Seeds" else help
    cells.add(title, values, help)


def _add_numbers(
    cells: Cells,
    table: Table,
    column: Column,
    rows: Sequence[Row],
    numbers: Sequence[Number | None],
    side: str = "",
) -> None:
    if any(numbers):
        # A ranking has room for the intervals of one column only.
        interval = table.ranked_by in ("", column.key)
        values = [n and ShownNumber(n.value, _text(n, column, interval)) for n in numbers]
        bold = [number is not None and number.bold for number in numbers]
        cells.add(column.title + side, values, _help(column, side, numbers, interval), bold)


def _text(number: Number, column: Column, interval: bool) -> str:
    """``31.45``, ``31.45!``, ``76.64 ± 0.12``, ``31.45 [30.5, 32.4]`` or ``31.45 †``."""
    text = number_text(number, column, interval=interval)
    return f"{text} {UNDERLINED}" if number.underlined else text


def _help(column: Column, side: str, numbers: Sequence[Number | None], interval: bool) -> str:
    """What a column's numbers are, where they come from and what is shown with them."""
    there = [number for number in numbers if number is not None]
    badges = {number.badge for number in there}
    accuracy = f"Accuracy after {column.heads[-1]}, percent."
    sentences = [column.help or METRIC_HELP.get(column.metric, accuracy)]
    if column.difference:
        sentences.append(f"Computed here{'' if side == OURS else ' from the numbers shown'}.")
    elif side == OURS:
        sentences.append("Measured here.")
    else:
        sentences += [origin for badge, origin in ORIGINS.items() if badge in badges]
    if interval and any(number.interval for number in there):
        images = sorted({number.n for number in there if number.interval and number.n})
        n = f" for n = {', '.join(f'{each:,}' for each in images)}" if images else ""
        differs = column.difference or column.forest
        kind = "95% interval of the difference" if differs else "95% interval of one model"
        sentences.append(f"In brackets: the {kind}, computed here{n}.")
    if any(number.std is not None for number in there):
        sentences.append(f"{PLUS_MINUS}: standard deviation over seeds.")
    return " ".join(sentences)


def sides(rows: Sequence[Row], view: str) -> list[Row]:
    """The rows with only the numbers of a view, leaving out rows without any."""
    if view == "both":
        return list(rows)
    kept = [replace(row, cells=_side(row.cells, view)) for row in rows]
    return [row for row in kept if row.numbers]


def _side(cells: Mapping[str, Cell], view: str) -> dict[str, Cell]:
    if view == "ours":
        return {key: Cell(ours=cell.ours) for key, cell in cells.items()}
    return {key: replace(cell, ours=None) for key, cell in cells.items()}


def table_files(table: Table, rows: Sequence[Row], view: str) -> dict[str, Callable[[], str]]:
    """Functions that format the rows and numbers shown; LaTeX is laid out as in the paper."""
    shown = replace(table, rows=tuple(rows))
    return {
        "CSV": lambda: to_csv(shown),
        "LaTeX": lambda: to_latex(shown, ours=view != "printed"),
        "Markdown": lambda: to_markdown(shown),
        "BibTeX": lambda: to_bibtex(shown),
    }


def file_name(table: Table) -> str:
    """The name of a table's files, without an ending."""
    if table.number or table.slug:
        return table.anchor
    # All rankings have the same anchor; their titles are their protocols.
    return "runs-" + re.sub("[^a-z0-9.]+", "-", table.title.lower()).strip("-.")


def show_cells(cells: Cells, places: Sequence[int], *, alt: str) -> None:
    """Show some rows of a table as a grid.

    ``cells`` is the whole table, so that columns are equally wide in all its sections.
    """
    # Columns that are empty in this section are left out.
    first, *others = cells.values
    filled = [name for name in others if any(cells.texts(name)[place] for place in places)]
    titles = [first, *filled]
    columns = {}
    for title in titles:
        kind = number_column if is_numeric(cells.values[title]) else text_column
        columns[title] = kind(title, cells.help[title]) | {
            "pinned": title == first,
            "width": _width(cells, title),
        }
    height = "content" if len(places) <= 40 else 720
    show_table(styled(cells, titles, places), columns, alt, height=height)


def styled(cells: Cells, titles: Sequence[str], places: Sequence[int]) -> Styler:
    """Some rows and columns: numbers as values, their texts and font weights as style."""
    values, bold = (
        pd.DataFrame(own, dtype=object).loc[list(places), list(titles)].reset_index(drop=True)
        for own in (cells.values, cells.bold)
    )
    weights = bold.replace({True: "font-weight: 700", False: ""})
    return values.style.apply(lambda _: weights, axis=None).format(shown_text)


def shown_text(value: object) -> str:
    """The text shown for a cell's value."""
    return "" if value is None else value.text if isinstance(value, ShownNumber) else str(value)


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether a column holds numbers."""
    return any(isinstance(value, ShownNumber) for value in values)


def _width(cells: Cells, title: str) -> int:
    """Width in pixels for the title and the longest cell."""
    pixels = BOLD_CHARACTER_PIXELS if any(cells.bold[title]) else CHARACTER_PIXELS
    longest = max(map(len, [title, *cells.texts(title)]))
    most = MAX_PINNED_PIXELS if title == next(iter(cells.values)) else MAX_COLUMN_PIXELS
    return min(longest * pixels + PADDING_PIXELS, most)
