"""A table as HTML that needs nothing else: light and dark, and readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from leaderboards.render.text import (
    disputes,
    extra_text,
    flags,
    is_signed,
    legend,
    method_of,
    row_notes,
    sections,
    value_text,
)
from leaderboards.table import FLAGGED, MEANINGS, Column, Number, Row, Table

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --dim: #5c5c5c; --ground: #fff; --line: #c9c9c9;
  --ours: #0b5cad; --alert: #a33b00; --band: #f3f3f1; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --dim: #a8a8a8; --ground: #16181b;
  --line: #43474d; --ours: #7cb8ff; --alert: #ffb07a; --band: #1f2226; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink);
  background: var(--ground); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
p { margin: .3rem 0; max-width: 46rem; } a { color: var(--ours); }
.dim, caption, .sub, .extra { color: var(--dim); }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .28rem .6rem; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; } th.c { text-align: center; }
thead { border-top: 2px solid; border-bottom: 1px solid var(--line); }
tbody { border-bottom: 1px solid var(--line); } tbody:last-child { border-bottom: 2px solid; }
tr.section th { font-weight: 600; font-style: italic; background: var(--band); }
tbody th { font-weight: 400; } .first { position: sticky; left: 0; background: var(--ground); }
.ours { color: var(--ours); } .u { text-decoration: underline; } .extra { font-size: .82rem; }
abbr { text-decoration: none; border: 1px solid var(--line); border-radius: .25rem;
  padding: 0 .22rem; margin-left: .3rem; font-size: .72rem; }
a.mark { color: var(--alert); font-weight: 700; text-decoration: none; padding: 0 .2rem; }
.sub { display: none; font-size: .82rem; } details { margin: .5rem 0; } summary { cursor: pointer; }
li { max-width: 50rem; } li:target { background: var(--band); outline: 2px solid var(--alert); }
code { background: var(--band); padding: .1rem .3rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0; max-width: 46rem; } svg { width: 100%; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .axis { stroke: var(--line); }
svg .front { stroke: var(--dim); stroke-dasharray: 4 3; fill: none; }
svg .P { fill: var(--dim); stroke: var(--dim); } svg .R { fill: var(--ours); stroke: var(--ours); }
svg .RB { fill: none; stroke: var(--alert); stroke-width: 1.5; }
@media (max-width: 640px) { body { padding: .7rem; } .wide { display: none; }
  .sub { display: block; } th, td { padding: .25rem .4rem; } .first { max-width: 9.5rem; } }
"""


def to_html(table: Table) -> str:
    """A whole page with one table."""
    return page(f"Table {table.number}: {table.title}", fragment(table))


def page(title: str, body: str) -> str:
    """A page that needs no other file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def fragment(table: Table) -> str:
    """Heading, table, legend, contradictions and notes."""
    number = table.number
    parts = [
        f'<section id="table-{number}">',
        f"<h2>Table {number}: {escape(table.title)}</h2>",
        f"<p>{escape(table.caption)}</p>",
        f'<p class="dim">{escape(table.protocol)}</p>',
        f'<div class="scroll" role="region" tabindex="0" aria-label="Table {number}">',
        f"<table>\n<thead>{_heads(table)}</thead>",
        *_bodies(table),
        "</table>\n</div>",
        _list(legend(table), "dim"),
        _contradictions(table),
        _list([f"{FLAGGED} {line}" for line in flags(table)]),
        _notes(table),
    ]
    if table.message:
        parts.append(f"<p>{escape(table.message)}</p>")
    if not table.has_ours:
        parts.append(f"<p>First number of ours: <code>{escape(table.first_run)}</code></p>")
    return "\n".join(filter(None, [*parts, "</section>"]))


def _heads(table: Table) -> str:
    height = len(table.columns[0].heads)
    lines = []
    for level in range(height):
        cells = []
        if level == 0:
            for place, label in enumerate(table.labels):
                kind = _label_class(table, place)
                cells.append(f'<th scope="col" rowspan="{height}"{kind}>{escape(label)}</th>')
        cells += _titles(table.columns, level, bottom=level == height - 1)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "".join(lines)


def _titles(columns: Sequence[Column], level: int, *, bottom: bool) -> list[str]:
    cells: list[str] = []
    place = 0
    while place < len(columns):
        heads = columns[place].heads[: level + 1]
        span = 1
        while (
            not bottom
            and place + span < len(columns)
            and columns[place + span].heads[: level + 1] == heads
        ):
            span += 1
        column = columns[place]
        scope = "col" if span == 1 else "colgroup"
        kind = "n" if span == 1 else "c"
        cells.append(
            f'<th scope="{scope}" colspan="{span}" class="{kind}" title="{escape(column.help)}">'
            f"{escape(heads[-1])}</th>"
        )
        place += span
    return cells


def _bodies(table: Table) -> list[str]:
    found = sections(table.rows)
    bodies = []
    for name, rows in found:
        lines = []
        if name and len(found) > 1:
            title = f"{name} {table.panels.get(name, '')}".strip()
            span = len(table.labels) + len(table.columns)
            lines.append(
                f'<tr class="section"><th colspan="{span}" scope="rowgroup">{escape(title)}</th>'
                "</tr>"
            )
        lines += [_row(table, row) for row in rows]
        bodies.append("<tbody>\n" + "\n".join(lines) + "\n</tbody>")
    return bodies


def _row(table: Table, row: Row) -> str:
    cells = []
    for place, label in enumerate(row.labels):
        text = escape(label)
        if place == table.method_label:
            others = [other for other in row.labels if other and other != label]
            sub = escape(", ".join(others))
            text += f'<span class="sub">{sub}</span>' if sub else ""
            cells.append(f'<th scope="row"{_label_class(table, place)}>{text}</th>')
        else:
            cells.append(f"<td{_label_class(table, place)}>{text}</td>")
    for column in table.columns:
        cell = row.cells.get(column.key)
        numbers = [_number(table, number, row, column) for number in cell.numbers] if cell else []
        cells.append(f'<td class="n">{"<br>".join(numbers)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _label_class(table: Table, place: int) -> str:
    return ' class="first"' if place == table.method_label else ' class="wide"'


def _number(table: Table, number: Number, row: Row, column: Column) -> str:
    text = escape(value_text(number, column, signed=is_signed(row, column)))
    if number.std is not None:
        text += f" &plusmn; {number.std:.{column.decimals}f}"
    kinds = " ".join(
        name for name, on in (("u", number.underlined), ("ours", bool(number.run_ids))) if on
    )
    tag = "strong" if number.bold else "span"
    note = f' title="{escape(number.note)}"' if number.note else ""
    shown = f'<{tag} class="{kinds}"{note}>{text}</{tag}>'
    shown += f'<abbr title="{escape(MEANINGS[number.badge])}">{number.badge}</abbr>'
    if number.disputed:
        place = [evidence for _, evidence in disputes(table)].index(number.disputed)
        shown += (
            f'<a class="mark" href="#dispute-{table.number}-{place}" '
            f'title="{escape(number.disputed)}" aria-label="disputed: see the evidence">!</a>'
        )
    if number.flags:
        shown += f'<span class="mark" title="{escape(" ".join(number.flags))}">{FLAGGED}</span>'
    extra = extra_text(number, column) if number.run_ids and not column.difference else ""
    return shown + (f'<br><span class="extra">{escape(extra)}</span>' if extra else "")


def _contradictions(table: Table) -> str:
    items = [
        f'<li id="dispute-{table.number}-{place}"><strong>!</strong> {escape(where)}: '
        f"{escape(evidence)}</li>"
        for place, (where, evidence) in enumerate(disputes(table))
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _notes(table: Table) -> str:
    lines = [f"Epoch: {table.selection}", *table.remarks]
    lines += [f"{name}: {note}" for name, note in row_notes(table)]
    lines += _number_notes(table)
    return f"<details><summary>Notes</summary>{_list(lines)}</details>"


def _number_notes(table: Table) -> list[str]:
    """Notes on printed numbers, each once, with the rows it is about."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        for cell in row.cells.values():
            if cell.printed and cell.printed.note and row.kind != "published":
                names = found.setdefault(cell.printed.note, [])
                if method_of(table, row) not in names:
                    names.append(method_of(table, row))
    return [f"{', '.join(names)}: {note}" for note, names in found.items()]


def _list(lines: Sequence[str], kind: str = "") -> str:
    if not lines:
        return ""
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'
