"""Tables as HTML: a page of tables, or a single one for the app, from the same template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboards.render import plots
from leaderboards.render.cells import VERDICTS, cell_lines
from leaderboards.render.escape import one_line
from leaderboards.render.text import (
    disputes,
    evidence,
    flag_texts,
    legend,
    notes,
    titled_sections,
)
from leaderboards.table import FLAGGED, MEANINGS, PUBLISHED_ROW, Column, Number, Row, Table

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent
CSS = "table.css"
FOREST_WIDTH, FOREST_MARGIN = 240, 14
# Candidate steps between the ticks of a forest plot, and the most steps it may have.
STEPS, MOST_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100), 6
NOTHING_MORE = "The numbers are as printed; nothing contradicts them."


@dataclass(frozen=True)
class Bar:
    """One difference in a forest plot, in drawing units.

    Attributes:
        zero: position of a difference of 0.
        x: position of the difference.
        low: position of the lower end of its interval; None without one.
        high: position of the upper end.
        clear: whether the interval excludes 0.
        text: the difference and its interval in words.
    """

    zero: float
    x: float
    low: float | None
    high: float | None
    clear: bool
    text: str


@dataclass(frozen=True)
class TableView:
    """A table as the template draws it.

    Attributes:
        table: the table.
        rows: the rows to show.
        opened: key of the row whose evidence is open. A page without a server contains the
            evidence of all rows, and its URL opens one.
        row_link: returns the URL that opens a row, given its key; None for a page without a server.
        run_link: start of the URL of a run; empty if runs are not linked.
    """

    table: Table
    rows: Sequence[Row]
    opened: str = ""
    row_link: Callable[[str], str] | None = None
    run_link: str = ""

    @property
    def width(self) -> int:
        """Number of columns, including label columns."""
        return len(self.table.labels) + len(self.table.columns)

    @property
    def sections(self) -> list[tuple[str, list[Row]]]:
        """The rows by section, each with its title."""
        return titled_sections(self.table, self.rows)

    @property
    def heads(self) -> list[list[tuple[str, int, Column]]]:
        """Cells of each header line: title, number of columns, and the first of these columns."""
        height = len(self.table.columns[0].heads)
        lines = []
        for level in range(height):
            # In the last line each column has its own title.
            same = groupby(
                enumerate(self.table.columns),
                key=lambda item: (item[1].heads[: level + 1], level == height - 1 and item[0]),
            )
            members = [[column for _, column in group] for _, group in same]
            lines.append([(own[0].heads[level], len(own), own[0]) for own in members])
        return lines

    def others(self, row: Row) -> str:
        """Return a row's labels except its method on one line, a bare number with its title."""
        named = zip(self.table.labels, row.labels, strict=True)
        texts = [f"{title.lower()} {text}" if text.isdigit() else text for title, text in named]
        del texts[self.table.method_label]
        return ", ".join(filter(None, texts))

    def link(self, row: Row) -> str:
        """Return the URL that opens a row, or closes it if it is open."""
        if self.row_link is None:
            return f"#{self.anchor(row)}"
        return self.row_link("" if row.key == self.opened else row.key)

    def anchor(self, row: Row) -> str:
        """Return the HTML id of a row's evidence."""
        return f"{self.table.anchor}-{row.key}"

    def shows_evidence(self, row: Row) -> bool:
        """Whether a row's evidence is on the page."""
        return self.row_link is None or row.key == self.opened

    def evidence(self, row: Row) -> list[str]:
        """Return what a reader must know about a row's numbers."""
        return evidence(self.table, row) or [NOTHING_MORE]

    def dispute(self, place: int) -> str:
        """Return the HTML id of a contradiction."""
        return f"dispute-{self.table.number}-{place}"

    def href(self, number: Number) -> str:
        """Return the URL of a disputed number's evidence."""
        row = next(row for row in self.table.rows if number in row.numbers)
        if self.row_link is not None:
            return self.row_link(row.key)
        found = [text for _, text in disputes(self.table)]
        return f"#{self.dispute(found.index(number.disputed))}"

    def has_gaps(self, column: Column) -> bool:
        """Whether any of our numbers in a column is compared with a printed one."""
        return column.key in self._compared

    @cached_property
    def _compared(self) -> set[str]:
        return {
            key
            for row in self.rows
            for key, cell in row.cells.items()
            if cell.ours is not None and cell.ours.from_print is not None
        }

    def bar(self, number: Number) -> Bar:
        """Return a difference on the scale of its forest plot."""
        ends = (None, None) if number.interval is None else tuple(map(self._place, number.interval))
        text = f"{number.value:+.2f} points"
        if number.interval is not None:
            text += ", 95% interval {:+.2f} to {:+.2f}".format(*number.interval)
        low, high = number.span
        clear = not low <= 0 <= high
        return Bar(self._place(0.0), self._place(number.value), ends[0], ends[1], clear, text)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The ticks of a forest plot: positions and texts of round numbers."""
        low, high = self._extent
        step = next(step for step in STEPS if (high - low) / step <= MOST_TICKS)
        values = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [(self._place(value), f"{value:+g}" if value else "0") for value in values]

    def _place(self, value: float) -> float:
        low, high = self._extent
        span = FOREST_WIDTH - 2 * FOREST_MARGIN
        return round(FOREST_MARGIN + span * (value - low) / (high - low), 1)

    @cached_property
    def _extent(self) -> tuple[float, float]:
        """The ends of the scale, which covers all intervals in forest columns and 0."""
        keys = [column.key for column in self.table.columns if column.forest]
        numbers = [n for row in self.rows for key in keys if (n := row.cell(key).ours)]
        values = [0.0, *(end for n in numbers for end in n.span)]
        return (min(values), max(values)) if min(values) < max(values) else (-1.0, 1.0)


def fragment(view: TableView) -> str:
    """Return one table without a page around it; its style is ``css``."""
    module = _environment().get_template("table.html.jinja").module
    return str(module.table_of(view))  # type: ignore[attr-defined]


def css() -> str:
    """Return the style sheet of a table, with colours that the surrounding page defines."""
    return (FOLDER / CSS).read_text(encoding="utf-8")


def to_html(*tables: Table) -> str:
    """Return a page with tables, named after the first one."""
    return page(tables[0].name, [_entry(table, (), ()) for table in tables])


def site(tables: Sequence[Table], endings: Sequence[str], made: str) -> str:
    """Return a page with tables, their plots and links to files ``<anchor>.<ending>``.

    ``made`` says from which code and data the page was made.
    """
    entries = []
    for table in tables:
        files = [f"{table.anchor}.{ending}" for ending in endings]
        entries.append(_entry(table, plots.plots_of(table), files))
    return page("DivergenceBench: leaderboards", entries, made)


def page(title: str, entries: Sequence[dict[str, Any]], made: str = "") -> str:
    """Return the filled template; everything but the plots and the style sheet is escaped."""
    from markupsafe import Markup

    template = _environment().get_template("page.html.jinja")
    return template.render(title=title, entries=entries, css=Markup(css()), made=made).lstrip()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def plain(value: Any) -> Any:
        """Return text without characters that a page must not have."""
        return one_line(value) if isinstance(value, str) and type(value) is not Markup else value

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=plain,
    )
    environment.globals |= {
        "meanings": MEANINGS,
        "verdicts": VERDICTS,
        "legend": legend,
        "lines_of": cell_lines,
    }
    return environment


def _entry(table: Table, figures: Sequence[plots.Figure], files: Sequence[str]) -> dict[str, Any]:
    """Return what the template shows of a table."""
    from markupsafe import Markup

    return {
        "view": TableView(table, table.rows),
        "disputes": disputes(table),
        "flags": [f"{FLAGGED} {line}" for line in flag_texts(table)],
        "notes": notes(table) + _number_notes(table),
        "plots": [(Markup(figure.svg), figure.caption) for figure in figures],
        "files": files,
    }


def _number_notes(table: Table) -> list[str]:
    """Return the notes on printed numbers, each once, with the rows it is about."""
    found: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for cell in row.cells.values():
            if cell.printed and cell.printed.note and row.kind != PUBLISHED_ROW:
                found.setdefault(cell.printed.note, {})[table.name_of(row)] = None
    return [f"{', '.join(names)}: {note}" for note, names in found.items()]
