"""Tables in Markdown, for GitHub and similar renderers."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboards.render.cells import Line, cell_lines
from leaderboards.render.escape import markdown as escape
from leaderboards.render.text import remarks_text, titled_sections
from leaderboards.table import Column, Row, Table


def to_markdown(table: Table) -> str:
    """Return title, table, legend, contradictions and notes."""
    title = f"Table {table.number}." if table.number else f"{escape(table.title)}."
    heads = [*map(escape, table.labels), *(escape(column.title) for column in table.columns)]
    align = [":--"] * len(table.labels) + ["--:"] * len(table.columns)
    lines = [f"**{title}** {escape(table.caption)}".strip(), ""]
    lines += [f"*{escape(table.headline)}*", ""] if table.headline else []
    lines += [escape(table.protocol), ""] if table.protocol else []
    lines += [_line(heads), _line(align)]
    for section, rows in titled_sections(table, table.rows):
        if section:
            lines.append(_line([f"*{escape(section)}*", *[""] * (len(heads) - 1)]))
        for row in rows:
            cells = [_cell(row, column) for column in table.columns]
            lines.append(_line([*map(escape, row.labels), *cells]))
    lines += ["", *(f"- {escape(line)}" for line in remarks_text(table))]
    if table.first_run and not table.has_ours:
        lines += ["", f"To add our first number, run: `{table.first_run}`"]
    return "\n".join(lines) + "\n"


def _cell(row: Row, column: Column) -> str:
    return "<br>".join(map(_number, cell_lines(row.cell(column.key), column)))


def _number(line: Line) -> str:
    text = escape(f"{line.measure} {line.source}")
    if line.number.bold:
        text = f"**{text}**"
    if line.number.underlined:
        text = f"<u>{text}</u>"
    return " ".join(filter(None, (text, escape(line.comparison), escape(line.extra))))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
