"""A table in Markdown, as GitHub and others read it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leaderboards.render.text import extra_text, number_text, remarks_text, titled_sections
from leaderboards.table import Column, Number, Row, Table

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def to_markdown(table: Table) -> str:
    """Title, table, legend, contradictions and notes."""
    title = f"Table {table.number}." if table.number else f"{escape(table.title)}."
    heads = [*map(escape, table.labels), *(escape(column.title) for column in table.columns)]
    align = [":--"] * len(table.labels) + ["--:"] * len(table.columns)
    lines = [f"**{title}** {escape(table.caption)}".strip(), ""]
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
        lines += ["", f"First number of ours: `{table.first_run}`"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return (
        SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
    )


def _cell(row: Row, column: Column) -> str:
    numbers = row.cell(column.key).numbers
    return "<br>".join(_number(number, column) for number in numbers)


def _number(number: Number, column: Column) -> str:
    text = escape(number_text(number, column))
    if number.bold:
        text = f"**{text}**"
    if number.underlined:
        text = f"<u>{text}</u>"
    return f"{text} {escape(extra_text(number, column))}".strip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
