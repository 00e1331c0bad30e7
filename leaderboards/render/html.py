"""Tables as one HTML page, by the template ``page.html.jinja``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from leaderboards.render import plots
from leaderboards.render.text import (
    deviation_text,
    disputes,
    extra_text,
    flag_texts,
    legend,
    notes,
    titled_sections,
    value_text,
)
from leaderboards.table import FLAGGED, MEANINGS, PUBLISHED_ROW, Table


def to_html(table: Table) -> str:
    """A page with one table."""
    return page(f"Table {table.number}: {table.title}", [_entry(table, (), ())])


def site(title: str, tables: Sequence[Table], endings: Sequence[str]) -> str:
    """A page with tables, their plots and links to ``table-<number>.<ending>`` beside the page."""
    entries = []
    for table in tables:
        files = [f"table-{table.number}.{ending}" for ending in endings]
        entries.append(_entry(table, plots.plots_of(table), files))
    return page(title, entries)


def page(title: str, entries: Sequence[dict[str, Any]]) -> str:
    """The template, filled; everything in it is escaped but the plots."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {
        "meanings": MEANINGS,
        "legend": legend,
        "titled_sections": titled_sections,
        "value_text": value_text,
        "deviation_text": deviation_text,
        "extra_text": extra_text,
    }
    return environment.get_template("page.html.jinja").render(title=title, entries=entries).lstrip()


def _entry(table: Table, figures: Sequence[plots.Figure], files: Sequence[str]) -> dict[str, Any]:
    """What the template shows of a table."""
    from markupsafe import Markup

    found = disputes(table)
    return {
        "table": table,
        "heads": _heads(table),
        "disputes": found,
        "evidence": [evidence for _, evidence in found],
        "flags": [f"{FLAGGED} {line}" for line in flag_texts(table)],
        "notes": notes(table) + _number_notes(table),
        "plots": [(Markup(figure.svg), figure.caption) for figure in figures],
        "files": files,
    }


def _heads(table: Table) -> list[list[tuple[str, int, str]]]:
    """For each line of the head: title, number of columns, and what the first of them holds."""
    height = len(table.columns[0].heads)
    lines = []
    for level in range(height):
        line = []
        # In the last line each column has its own title.
        same = groupby(
            enumerate(table.columns),
            key=lambda item: (item[1].heads[: level + 1], level == height - 1 and item[0]),
        )
        for _, members in same:
            columns = [column for _, column in members]
            line.append((columns[0].heads[level], len(columns), columns[0].help))
        lines.append(line)
    return lines


def _number_notes(table: Table) -> list[str]:
    """Notes on printed numbers, each once, with the rows it is about."""
    found: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for cell in row.cells.values():
            if cell.printed and cell.printed.note and row.kind != PUBLISHED_ROW:
                found.setdefault(cell.printed.note, {})[table.name_of(row)] = None
    return [f"{', '.join(names)}: {note}" for note, names in found.items()]
