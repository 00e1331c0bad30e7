"""A table in LaTeX with booktabs, as the paper sets it; our columns are optional.

The document needs booktabs, multirow, amssymb (check marks) and the package inputenc or an engine
that reads UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from leaderboards.render.text import deviation_text, rows_with_numbers, sections, value_text
from leaderboards.table import (
    DIFFERENCE_ROW,
    HEAD_ROW,
    PRINTED_ROW,
    Column,
    Number,
    Row,
    Table,
)

ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u03b1": r"$\alpha$",
    "\u03b2": r"$\beta$",
    "\u03c4": r"$\tau$",
    "\u0394": r"$\Delta$",
    "\u03b5": r"$\epsilon$",
    "\u2713": r"$\checkmark$",
    "\u2717": r"$\times$",
    "\u00d7": r"$\times$",
    "\u00b1": r"$\pm$",
    "\u2113": r"$\ell$",
    "\u221e": r"$_\infty$",
}
PACKAGES = ("booktabs", "multirow", "amssymb")
ROW_END = r" \\"
AS_PRINTED = (PRINTED_ROW, HEAD_ROW, DIFFERENCE_ROW)


@dataclass(frozen=True)
class _Slot:
    """One LaTeX column of numbers: a column of the table and its side, printed or ours.

    A ranking has one number a cell, so its columns have no side.
    """

    column: Column
    side: str

    def number(self, row: Row) -> Number | None:
        """A row's number in this column."""
        if not self.side:
            return row.number(self.column.key)
        cell = row.cell(self.column.key)
        return cell.ours if self.side == "ours" else cell.printed


def to_latex(table: Table, *, ours: bool = True) -> str:
    """A table environment; without our numbers, differences and rows it is as printed."""
    rows = rows_with_numbers(table.rows, ours=ours)
    rows = [row for row in rows if ours or row.kind in AS_PRINTED]
    caption, label = escape(table.caption or table.title), f"tab:paper-{table.number}"
    body = [] if table.panels else _tabular(table, rows, ours)
    for name, own in sections(rows) if table.panels else ():
        title = escape(f"{name} {table.panels.get(name, '')}")
        body += [*_tabular(table, own, ours), rf"\par\smallskip {title}\par\medskip"]
    return "\n".join(
        [
            f"% packages: {', '.join(PACKAGES)}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            *([rf"\label{{{label}}}"] if table.number else []),
            *body,
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text that LaTeX sets as it is; what no font is sure to have becomes a question mark."""
    line = " ".join(text.split())
    shown = "".join(ESCAPES.get(sign, sign if sign.isascii() else "?") for sign in line)
    # Neighbouring pieces of mathematics are one piece.
    return shown.replace("$$", "")


def _slots(table: Table, rows: Sequence[Row], ours: bool) -> list[_Slot]:
    """The columns that have a number."""
    slots = []
    for column in table.columns:
        sides = ("",) if table.ranked_by else ("printed", "ours") if ours else ("printed",)
        if column.difference and not ours:
            continue
        for slot in (_Slot(column, side) for side in sides):
            if any(slot.number(row) for row in rows):
                slots.append(slot)
    return slots


def _tabular(table: Table, rows: Sequence[Row], ours: bool) -> list[str]:
    slots = _slots(table, rows, ours)
    stub = [table.stub] if table.stub else []
    first = len(table.labels) - table.last_labels
    columns = "l" * (len(stub) + first) + "c" * len(slots) + "l" * table.last_labels
    heads = _heads(table, rows, slots, len(stub))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *heads, r"\midrule"]
    body = [row for row in rows if row.kind != HEAD_ROW]
    for number, (name, own) in enumerate(_stubbed(table, body)):
        if number:
            lines.append(r"\midrule")
        if name and own[0].kind not in AS_PRINTED:
            lines.append(
                rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{escape(name)}}}}}" + ROW_END
            )
            lines += [_row(table, row, slots, [""] * len(stub)) for row in own]
            continue
        for place, row in enumerate(own):
            text = rf"\multirow{{{len(own)}}}{{*}}{{{escape(name)}}}" if place == 0 else ""
            if row.kind == DIFFERENCE_ROW and len(own) > 1:
                lines.append(rf"\cmidrule{{{len(stub) + 1}-{len(columns)}}}")
            lines.append(_row(table, row, slots, [text] if stub else []))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _stubbed(table: Table, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The sections that print has: with one text in the stub all printed rows are one."""
    if not table.stub_text:
        return sections(rows)
    printed = [row for row in rows if row.kind == PRINTED_ROW]
    others = sections([row for row in rows if row.kind != PRINTED_ROW])
    # A reader's selection may leave no printed row.
    return [(table.stub_text, printed), *others] if printed else others


def _heads(table: Table, rows: Sequence[Row], slots: Sequence[_Slot], stub: int) -> list[str]:
    """The lines of the head: titles, below a teacher's or student's name its own accuracy."""
    alone = [row for row in rows if row.kind == HEAD_ROW]
    height = len(table.columns[0].heads)
    first = len(table.labels) - table.last_labels
    lines = []
    for level in range(height):
        bottom = level == height - 1
        labels = [table.stub] * stub + list(table.labels[:first]) if level == 0 else []
        if alone and level < len(alone):
            stubs = [table.stub if level == 0 else ""] * stub
            others = table.labels[1:first] if level == 0 else ()
            labels = [*stubs, alone[level].labels[0], *others]
        labels += [""] * (stub + first - len(labels))
        titles = _merged([slot.column.heads[level] for slot in slots], bottom and not alone)
        last = [escape(label) for label in table.labels[first:]] if level == 0 else []
        last += [""] * (table.last_labels - len(last))
        lines.append(" & ".join([*map(escape, labels), *titles, *last]) + ROW_END)
        if level < len(alone):
            lines.append(_row(table, alone[level], slots, [""] * stub, labelled=False))
    if any(slot.side == "ours" for slot in slots):
        kinds = [slot.side for slot in slots]
        blank = [""] * (stub + first)
        lines.append(" & ".join([*blank, *kinds, *[""] * table.last_labels]) + ROW_END)
    return lines


def _merged(titles: Sequence[str], never: bool) -> list[str]:
    """Titles of neighbours that are equal, over all their columns."""
    cells = []
    for title, members in groupby(titles):
        span = len(list(members))
        if span == 1 or (never and not title):
            cells += [escape(title)] * span
        else:
            cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(title)}}}")
    return cells


def _row(
    table: Table, row: Row, slots: Sequence[_Slot], stub: list[str], *, labelled: bool = True
) -> str:
    first = len(table.labels) - table.last_labels
    labels = [escape(label) for label in row.labels] if labelled else [""] * len(table.labels)
    cells = [_number(slot.number(row), slot.column) for slot in slots]
    if row.kind not in AS_PRINTED and stub:
        # Names of rows that the paper does not have are longer and take the stub's width too.
        labels[0], stub = rf"\multicolumn{{{len(stub) + 1}}}{{l}}{{{labels[0]}}}", []
    return " & ".join([*stub, *labels[:first], *cells, *labels[first:]]) + ROW_END


def _number(number: Number | None, column: Column) -> str:
    if number is None:
        return ""
    text = escape(value_text(number, column))
    if text.startswith("-"):
        text = f"$-${text[1:]}"
    if number.bold:
        text = rf"\textbf{{{text}}}"
    if number.underlined:
        text = rf"\underline{{{text}}}"
    if number.std is not None:
        text += rf" $\pm$ {deviation_text(number, column)}"
    return text
