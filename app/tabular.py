"""From a rendered table to the cells that a page shows: filters, order, text and weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from leaderboards.ranking import Entry
from leaderboards.render.latex import escape
from leaderboards.render.text import PLUS_MINUS, is_signed, marks, value_text
from leaderboards.table import (
    DISPUTED,
    FLAGGED,
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

PRINTED_ORDER = "as printed"
UNDERLINED = "†"
ORIGINS = {
    PRINTED: "As printed.",
    LOGGED: "Where print has none, from the authors' log.",
    ROBUSTBENCH: "In rows of RobustBench, as it publishes them.",
}
OURS = " (ours)"
FROM_PRINT = " (ours - print)"


@dataclass(frozen=True)
class Filters:
    """What a reader wants to see; an empty choice is all.

    Attributes:
        words: what a row's texts must hold, lower case.
        facts: name in ``RenderedRow.facts`` to the values wanted; ``source`` may hold several.
    """

    words: str = ""
    facts: Mapping[str, Sequence[str]] | None = None

    def fits(self, row: Row) -> bool:
        """Whether the row is to be shown."""
        text = " ".join([*row.labels, row.group, *row.facts.values()]).lower()
        if self.words not in text:
            return False
        return all(
            not wanted or set(wanted) & set(row.facts.get(name, "").split(","))
            for name, wanted in (self.facts or {}).items()
        )


def known_facts(table: Table, name: str) -> list[str]:
    """The values that a fact has in a table, in order of appearance."""
    values = [value for row in table.rows for value in row.facts.get(name, "").split(",")]
    return [value for value in dict.fromkeys(values) if value]


def chosen_rows(table: Table, filters: Filters, sort: str) -> list[Row]:
    """The rows that fit: as printed, or best first by the column whose title is ``sort``.

    Sections stay together; a row without the number goes to its section's end.
    """
    rows = [row for row in table.rows if filters.fits(row)]
    column = next((column for column in table.columns if column.title == sort), None)
    if column is None:
        return rows
    groups = list(dict.fromkeys(row.group for row in rows))

    def place(row: Row) -> tuple[int, bool, float]:
        number = best_number(row.cells.get(column.key))
        if number is None:
            return groups.index(row.group), True, 0.0
        value = number.value if column.lower_is_better else -number.value
        return groups.index(row.group), False, value

    return sorted(rows, key=place)


def best_number(cell: Cell | None) -> Number | None:
    """What a cell is sorted by: the printed number, else ours, else the logged one."""
    return None if cell is None else cell.printed or cell.ours or cell.logged


@dataclass(frozen=True)
class Shown:
    """A table as text.

    Attributes:
        cells: text by column title.
        bold: of the same shape; what is the best.
        help: column title to what it is.
    """

    cells: pd.DataFrame
    bold: pd.DataFrame
    help: dict[str, str]


def shown(table: Table, rows: Sequence[Row], *, printed: bool, ours: bool) -> Shown:
    """The cells of some rows, with the printed numbers, ours, or both side by side."""
    cells: dict[str, list[str]] = {}
    bold: dict[str, list[bool]] = {}
    notes: dict[str, str] = {}

    def add(title: str, texts: list[str], weights: list[bool] | None, help: str) -> None:
        cells[title] = texts
        bold[title] = weights or [False] * len(texts)
        notes[title] = help

    def add_label(place: int) -> None:
        title = table.labels[place]
        texts = [row.labels[place] for row in rows]
        printed_alone = all(row.kind not in (PUBLISHED_ROW, OURS_ROW) for row in rows)
        source = "the paper prints it" if printed_alone else "its source names it"
        add(title, texts, None, f"{title}, as {source}.")

    # Numbers next to the method, so that a phone shows them; what else is printed comes after.
    add_label(table.method_label)
    for column in table.columns:
        for side, title, wanted in (
            ("printed", column.title, printed),
            ("ours", column.title + OURS, ours),
        ):
            numbers = [_side(row.cells.get(column.key), side) for row in rows]
            if wanted and any(numbers):
                texts = [
                    number_text(number, row, column)
                    for number, row in zip(numbers, rows, strict=True)
                ]
                weights = [number is not None and number.bold for number in numbers]
                add(title, texts, weights, _help(column, side, numbers))
        gaps = [_side(row.cells.get(column.key), "ours") for row in rows]
        if printed and ours and any(gap and gap.from_print is not None for gap in gaps):
            texts = [
                "" if g is None or g.from_print is None else f"{g.from_print:+.2f}" for g in gaps
            ]
            add(column.title + FROM_PRINT, texts, None, "Our number minus the printed one.")
    sources = [row.facts.get("source", "") for row in rows]
    add("Source", sources, None, "Where numbers are from: P printed, RB RobustBench, R or S ours.")
    for place in range(len(table.labels)):
        if place != table.method_label:
            add_label(place)
    return Shown(pd.DataFrame(cells), pd.DataFrame(bold), notes)


def _side(cell: Cell | None, side: str) -> Number | None:
    if cell is None:
        return None
    return cell.ours if side == "ours" else cell.printed or cell.logged


def number_text(number: Number | None, row: Row, column: Column) -> str:
    """``31.45``, ``31.45!``, ``31.45 ± 0.12`` or ``31.45 [30.5, 32.4]``; a sign if a difference."""
    if number is None:
        return ""
    text = value_text(number, column, signed=is_signed(row, column)) + marks(number)
    text += UNDERLINED if number.underlined else ""
    if number.std is not None:
        return f"{text} {PLUS_MINUS} {number.std:.{column.decimals}f}"
    if number.low is not None and number.high is not None:
        return f"{text} [{number.low:.1f}, {number.high:.1f}]"
    return text


def _help(column: Column, side: str, numbers: Sequence[Number | None]) -> str:
    """What a column's numbers are, where they are from and what stands beside them."""
    there = [number for number in numbers if number is not None]
    badges = {number.badge for number in there}
    told = [column.help or column.title]
    if column.difference:
        told.append("Computed here from the numbers shown.")
    elif side == "ours":
        told.append("Measured here.")
    else:
        told += [said for badge, said in ORIGINS.items() if badge in badges]
    if any(number.std is None and number.low is not None for number in there):
        images = sorted({number.n for number in there if number.low is not None and number.n})
        n = f" for n = {', '.join(f'{each:,}' for each in images)}" if images else ""
        told.append(f"In brackets the Wilson 95% interval of one model, computed here{n}.")
    if any(number.std is not None for number in there):
        told.append(f"{PLUS_MINUS}: deviation over seeds.")
    return " ".join(told)


def evidence(table: Table, row: Row) -> list[str]:
    """What a reader must know of a row's numbers, a sentence each."""
    told = list(row.notes)
    for column in table.columns:
        cell = row.cells.get(column.key)
        for number in cell.numbers if cell else ():
            where = f"{column.title} ({number.badge})"
            told += [f"{DISPUTED} {where}: {number.disputed}"] if number.disputed else []
            told += [f"{FLAGGED} {where}: {flag}" for flag in number.flags]
            told += [f"{where}: {number.note}"] if number.note else []
            if cell and number is cell.logged:
                told.append(f"{where}, in the authors' log: {value_text(number, column)}")
            if number.seeds:
                n = f", n = {number.n}" if number.n else ""
                told.append(f"{where}: {number.seeds} seed{'s' * (number.seeds > 1)}{n}")
    return list(dict.fromkeys(told))


def run_ids(row: Row) -> list[str]:
    """The runs that a row's numbers are from."""
    found = [
        run for cell in row.cells.values() for number in cell.numbers for run in number.run_ids
    ]
    return list(dict.fromkeys(found))


def numbers_csv(entries: Sequence[Entry]) -> str:
    """One number of a protocol's runs a line; accuracies as fractions, times in seconds."""
    lines = [
        {
            "rank": entry.rank,
            "method": entry.method,
            "arch": entry.arch,
            "badge": entry.badge,
            "seeds": entry.seeds,
            "n": entry.n,
            "partial": int(entry.partial),
            "metric": metric,
            "value": score.value,
            "low": score.low,
            "high": score.high,
            "std": score.std,
            "flags": " ".join(entry.flags),
            "run_ids": " ".join(entry.run_ids),
            "source": entry.source,
        }
        for entry in entries
        for metric, score in entry.scores.items()
    ]
    return pd.DataFrame(lines).to_csv(index=False)


def markdown(cells: pd.DataFrame) -> str:
    """Cells as a Markdown table."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    columns = [str(column) for column in cells.columns]
    body = [line([str(text) for text in row]) for row in cells.itertuples(index=False)]
    return "\n".join([line(columns), line(["---"] * len(columns)), *body]) + "\n"


def latex(cells: pd.DataFrame, caption: str) -> str:
    """Cells as a booktabs table."""
    return str(
        cells.map(lambda text: escape(str(text)))
        .rename(columns=escape)
        .style.hide(axis="index")
        .to_latex(hrules=True, caption=escape(caption), position_float="centering")
    )
