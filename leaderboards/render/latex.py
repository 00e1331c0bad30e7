"""Tables in LaTeX with booktabs, typeset as in the paper; our numbers are optional.

The document needs ``PACKAGES``; the text is ASCII.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from leaderboards.render.cells import SIGNS, VERDICTS, extra_text, number_line
from leaderboards.render.escape import latex as escape
from leaderboards.render.text import rows_with_numbers, sections
from leaderboards.table import (
    DIFFERENCE_ROW,
    HEAD_ROW,
    PRINTED_ROW,
    PUBLISHED_ROW,
    Column,
    Number,
    Row,
    Table,
)

PACKAGES = ("booktabs", "multirow", "amssymb", "adjustbox")
ROW_END = r" \\"
# The most lines that fit on a page, for a table scaled to it and for panels, and the lines that a
# section's title, and a panel's header and title, take.
MOST_LINES, SECTION_HEAD = 48, 2
PANEL_LINES, PANEL_HEAD = 32, 7
AS_PRINTED = (PRINTED_ROW, HEAD_ROW, DIFFERENCE_ROW, PUBLISHED_ROW)


def to_latex(table: Table, *, ours: bool = True) -> str:
    """Return table environments; with ``ours`` False, only the rows and columns of the paper.

    Our number is below the printed one, with their difference and, in small type, its interval. A
    table wider than the page is scaled down; a long table is split.
    """
    rows = rows_with_numbers(table.rows, ours=ours)
    rows = [row for row in rows if ours or row.kind in AS_PRINTED]
    parts = _parts(table, rows, ours)
    return "\n".join(
        _environment(table, _body(table, part, ours), ours, part, part=n)
        for n, part in enumerate(parts)
    )


def _parts(table: Table, rows: Sequence[Row], ours: bool) -> list[list[Row]]:
    """Return the rows, page by page."""
    most, head = (PANEL_LINES, PANEL_HEAD) if table.panels else (MOST_LINES, SECTION_HEAD)
    parts: list[list[Row]] = [[]]
    used = 0
    for row in rows:
        lines = len(_row(table, row, _shown(table, [row], ours), [], ours))
        begins = not parts[-1] or parts[-1][-1].group != row.group
        if parts[-1] and used + lines + head * begins > most:
            parts.append([])
            used, begins = 0, True
        parts[-1].append(row)
        used += lines + head * begins
    return parts


def _body(table: Table, rows: Sequence[Row], ours: bool) -> list[str]:
    """Return one tabular, or one for each section that the paper prints as a separate table."""
    if not table.panels:
        return _fitting(table, rows, ours)
    body = []
    for name, own in sections(rows):
        title = escape(f"{name} {table.panels.get(name, '')}")
        body += [*_fitting(table, own, ours), rf"\par\smallskip {{\small {title}}}\par\medskip"]
    return body


def _environment(
    table: Table, body: Sequence[str], ours: bool, rows: Sequence[Row], *, part: int = 0
) -> str:
    """Return the tabulars of some rows with caption, label and a note on our numbers."""
    caption = escape(table.caption or table.title) + " (continued)" * (part > 0)
    label = f"tab:paper-{table.number}" if table.number else f"tab:{table.anchor}"
    return "\n".join(
        [
            f"% packages: {', '.join(PACKAGES)}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            *([rf"\label{{{label}}}"] if not part else []),
            *body,
            *([rf"\par\smallskip {{\footnotesize {note}}}"] if (note := _note(rows, ours)) else []),
            r"\end{table}",
            "",
        ]
    )


def _note(rows: Sequence[Row], ours: bool) -> str:
    """Return the note on our numbers; empty if none are shown."""
    numbers = [number for row in rows for number in row.numbers if number.run_ids]
    compared = [number for number in numbers if number.from_print is not None]
    if not ours or not numbers:
        return ""
    images = sorted({number.n for number in numbers if number.n})
    n = f" n = {' or '.join(f'{each:,}' for each in images)}." if images else ""
    text = "In square brackets: 95% intervals of our numbers."
    if compared:
        signs = "; ".join(f"{SIGNS[name]}: {text}" for name, text in VERDICTS.items())
        text = f"Below the printed numbers: ours, with the difference. {signs}. {text}"
    return escape(text + n)


def _fitting(table: Table, rows: Sequence[Row], ours: bool) -> list[str]:
    """Return a tabular that is scaled down to the page if it is wider or higher."""
    opened = r"\begin{adjustbox}{max width=\linewidth, max totalheight=.84\textheight}"
    return [opened, *_tabular(table, rows, ours), r"\end{adjustbox}"]


def _shown(table: Table, rows: Sequence[Row], ours: bool) -> list[Column]:
    """Return the columns that have a number."""
    return [
        column
        for column in table.columns
        if (ours or not column.difference) and any(_numbers(row, column, ours) for row in rows)
    ]


def _numbers(row: Row, column: Column, ours: bool) -> tuple[Number, ...]:
    """Return the numbers of a cell to typeset; the authors' logs are in other formats only."""
    cell = row.cell(column.key)
    both = (cell.printed, cell.ours if ours else None)
    return tuple(number for number in both if number is not None)


def _tabular(table: Table, rows: Sequence[Row], ours: bool) -> list[str]:
    shown = _shown(table, rows, ours)
    stub = [table.stub] if table.stub else []
    first = len(table.labels) - table.last_labels
    columns = "l" * (len(stub) + first) + "c" * len(shown) + "l" * table.last_labels
    heads = _heads(table, rows, shown, len(stub), ours)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *heads, r"\midrule"]
    body = [row for row in rows if row.kind != HEAD_ROW]
    for number, (name, own) in enumerate(_stubbed(table, body)):
        if number:
            lines.append(r"\midrule")
        if name and own[0].kind not in AS_PRINTED and not table.panels:
            lines.append(
                rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{escape(name)}}}}}" + ROW_END
            )
            for row in own:
                lines += _row(table, row, shown, [""] * len(stub), ours)
            continue
        blocks = [_row(table, row, shown, [""] * len(stub), ours) for row in own]
        if stub:
            height = sum(map(len, blocks))
            blocks[0][0] = rf"\multirow{{{height}}}{{*}}{{{escape(name)}}}{blocks[0][0]}"
        for row, block in zip(own, blocks, strict=True):
            if row.kind == DIFFERENCE_ROW and len(own) > 1:
                lines.append(rf"\cmidrule{{{len(stub) + 1}-{len(columns)}}}")
            lines += block
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _stubbed(table: Table, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the sections that the paper has: with ``stub_text``, all printed rows are one."""
    if not table.stub_text:
        return sections(rows)
    printed = [row for row in rows if row.kind == PRINTED_ROW]
    others = sections([row for row in rows if row.kind != PRINTED_ROW])
    # A filter may leave no printed row.
    return [(table.stub_text, printed), *others] if printed else others


def _heads(
    table: Table, rows: Sequence[Row], shown: Sequence[Column], stub: int, ours: bool
) -> list[str]:
    """Return the header lines: titles, and below a teacher's or student's name its accuracy."""
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
        titles = _merged([column.heads[level] for column in shown], bottom and not alone)
        last = [escape(label) for label in table.labels[first:]] if level == 0 else []
        last += [""] * (table.last_labels - len(last))
        lines.append(" & ".join([*map(escape, labels), *titles, *last]) + ROW_END)
        if level < len(alone):
            lines += _row(table, alone[level], shown, [""] * stub, ours, labelled=False)
    return lines


def _merged(titles: Sequence[str], never: bool) -> list[str]:
    """Return the titles, with equal neighbours merged over all their columns."""
    cells = []
    for title, members in groupby(titles):
        span = len(list(members))
        if span == 1 or (never and not title):
            cells += [escape(title)] * span
        else:
            cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(title)}}}")
    return cells


def _row(
    table: Table,
    row: Row,
    shown: Sequence[Column],
    stub: list[str],
    ours: bool,
    *,
    labelled: bool = True,
) -> list[str]:
    """Return the lines of a row: its first numbers, ours below printed ones, and our intervals."""
    first = len(table.labels) - table.last_labels
    labels = [escape(label) for label in row.labels] if labelled else [""] * len(table.labels)
    numbers = [_numbers(row, column, ours) for column in shown]
    heads = [own[0] if own else None for own in numbers]
    seconds = [own[1] if len(own) > 1 else None for own in numbers]

    def line(labels: Sequence[str], cells: Sequence[str], stub: Sequence[str]) -> str:
        return " & ".join([*stub, *labels[:first], *cells, *labels[first:]]) + ROW_END

    def cells(of: Sequence[Number | None]) -> list[str]:
        texts = [_number(n, column) for n, column in zip(of, shown, strict=True)]
        if row.kind in AS_PRINTED:
            return texts
        # A row without printed numbers has room for the interval next to the number.
        extras = [_small(extra_text(n, c)) if n else "" for n, c in zip(of, shown, strict=True)]
        return [" ".join(filter(None, both)) for both in zip(texts, extras, strict=True)]

    blank = [""] * len(table.labels)
    main = line(labels, cells(heads), stub)
    if row.kind not in AS_PRINTED and stub:
        # Rows that are not in the paper have longer names, which take the stub's width too.
        labels[0] = rf"\multicolumn{{{len(stub) + 1}}}{{l}}{{{labels[0]}}}"
        main = line(labels, cells(heads), [])
    lines = [main]
    if any(seconds):
        named = list(blank)
        named[min(table.method_label, len(named) - 1)] = r"\quad ours" * labelled
        lines.append(line(named, cells(seconds), stub))
    extras = [
        extra_text(own[-1], column) if own else ""
        for own, column in zip(numbers, shown, strict=True)
    ]
    if any(extras) and row.kind in AS_PRINTED:
        lines.append(line(blank, [_small(text) for text in extras], stub))
    return lines


def _small(text: str) -> str:
    return rf"{{\scriptsize {escape(text)}}}" if text else ""


def _number(number: Number | None, column: Column) -> str:
    """Return a number typeset as in the paper, with its deviation and comparison, if any."""
    if number is None:
        return ""
    line = number_line(number, column)
    text = escape(line.value)
    if text.startswith("-"):
        text = f"$-${text[1:]}"
    if number.bold:
        text = rf"\textbf{{{text}}}"
    if number.underlined:
        text = rf"\underline{{{text}}}"
    if line.deviation:
        text += rf" $\pm$ {line.deviation}"
    if line.gap:
        sign = f"$-${line.gap[1:]}" if line.gap.startswith("-") else line.gap
        text += rf"\,({sign}\,{escape(line.sign)})"
    return text
