"""A table in Markdown, as GitHub and others read it."""

from __future__ import annotations

import re

from leaderboards.render.text import (
    disputes,
    extra_text,
    flags,
    legend,
    number_text,
    row_notes,
    sections,
)
from leaderboards.table import Column, Number, Row, Table

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def to_markdown(table: Table) -> str:
    """Title, table, legend, contradictions and notes."""
    heads = [*map(escape, table.labels), *(escape(column.title) for column in table.columns)]
    align = [":--"] * len(table.labels) + ["--:"] * len(table.columns)
    lines = [f"**Table {table.number}.** {escape(table.caption)}", "", escape(table.protocol), ""]
    lines += [_line(heads), _line(align)]
    for name, rows in sections(table.rows):
        if name and len(sections(table.rows)) > 1:
            title = f"{name} {table.panels.get(name, '')}".strip()
            lines.append(_line([f"*{escape(title)}*", *[""] * (len(heads) - 1)]))
        lines += [_line([*map(escape, row.labels), *_cells(table, row)]) for row in rows]
    lines += ["", *(f"- {escape(line)}" for line in legend(table))]
    lines += [f"- ! {escape(where)}: {escape(evidence)}" for where, evidence in disputes(table)]
    lines += [f"- ? {escape(line)}" for line in flags(table)]
    lines += [f"- {escape(name)}: {escape(note)}" for name, note in row_notes(table)]
    lines += [f"- {escape(remark)}" for remark in (table.selection, *table.remarks)]
    if not table.has_ours:
        lines += ["", f"First number of ours: `{table.first_run}`"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return (
        SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
    )


def _cells(table: Table, row: Row) -> list[str]:
    return [_cell(row, column) for column in table.columns]


def _cell(row: Row, column: Column) -> str:
    cell = row.cells.get(column.key)
    return "<br>".join(_number(number, row, column) for number in cell.numbers) if cell else ""


def _number(number: Number, row: Row, column: Column) -> str:
    text = escape(number_text(number, row, column))
    if number.bold:
        text = f"**{text}**"
    if number.underlined:
        text = f"<u>{text}</u>"
    extra = extra_text(number, column) if number.run_ids and not column.difference else ""
    return f"{text} {escape(extra)}".strip()


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
