"""Headlines: a sentence or two above a table on what it shows, in the paper and here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from leaderboards.render.cells import interval_text
from leaderboards.table import DIFFERENCE_ROW, PRINTED_ROW, Cell, Number, Row, Table

NONE_YET = "Ours: not measured yet."
NOT_PAIRED = "Ours: no two runs that differ only in the loss share a seed yet."


def headline(table: Table) -> str:
    """Return the headline; empty for a table that is not the paper's."""
    gains = [row for row in table.rows if row.kind == DIFFERENCE_ROW]
    differences = [column for column in table.columns if column.difference]
    if gains:
        return _distillation(table, gains[0])
    if differences:
        return _robustness(table, differences[0].key)
    return _ablation(table) if table.number else ""


def best_text(table: Table) -> tuple[str, str, str]:
    """Return the best printed number of the paper's methods, its row, and a sentence on ours.

    For robust models the number is clean and AutoAttack accuracy, such as ``73.85 / 39.18``.
    """
    robust = any(column.key == "aa" for column in table.columns)
    keys = ["aa"] if robust else [c.key for c in table.columns if c.metric == "clean"]
    heads = {column.key: " to ".join(column.heads[:2]) for column in table.columns}
    rows = [r for r in table.rows if table.is_subject(r) and (r.is_papers_attack or not robust)]
    sides: dict[str, list[tuple[float, str, str]]] = {"printed": [], "ours": []}
    for row in rows:
        for key in keys:
            for side, found in sides.items():
                number: Number | None = getattr(row.cell(key), side)
                clean: Number | None = getattr(row.cell("clean"), side)
                if number is not None:
                    text = f"{number.value:.2f}"
                    if robust and clean is not None:
                        text = f"{clean.value:.2f} / {text}"
                    labels = filter(None, row.labels) if robust else (row.labels[0], heads[key])
                    found.append((number.value, text, ", ".join(labels)))
    _, printed, name = max(sides["printed"])
    if not sides["ours"]:
        return printed, name, NONE_YET
    _, ours, own = max(sides["ours"])
    return printed, name, f"Ours: {ours} ({own})."


def _robustness(table: Table, key: str) -> str:
    """Return by how much the paper's method outperforms KL training."""
    rows = [row for row in table.rows if table.is_subject(row) and row.is_papers_attack]
    parts = []
    for group in dict.fromkeys(row.group for row in rows):
        numbers = _printed(row.cell(key) for row in rows if row.group == group)
        if numbers:
            where = f" ({group[:1].lower()}{group[1:]})" if group else ""
            parts.append(f"{_range(numbers)} AA{where}")
    ours = _ours(table, ((table.name_of(row), row.cell(key)) for row in rows))
    return f"In the paper, IKL-AT improves on KL training by {' and by '.join(parts)}. {ours}"


def _distillation(table: Table, gain: Row) -> str:
    """Return by how much the paper's method outperforms classical distillation."""
    columns = [c for c in table.columns if gain.cell(c.key).printed]
    numbers = _printed(gain.cell(c.key) for c in columns)
    pairs = f"{len(numbers)} teacher-student pairs"
    ours = _ours(table, ((" to ".join(c.heads[:2]), gain.cell(c.key)) for c in columns))
    return f"In the paper, IKL-KD gains {_range(numbers)} points over KD on {pairs}. {ours}"


def _ablation(table: Table) -> str:
    """Return the range of AutoAttack accuracy over each weight."""

    def text(pick: Callable[[Cell], Number | None]) -> str:
        parts = []
        for group in table.panels:
            rows = [row for row in table.rows if row.group == group and row.kind == PRINTED_ROW]
            named = [(n.value, row.labels[0]) for row in rows if (n := pick(row.cell("aa")))]
            values = [value for value, _ in named]
            if len(named) == 1:
                parts.append(f"{values[0]:.2f} at {named[0][1]}")
            elif named:
                name = rows[0].labels[0].partition(" ")[0]
                parts.append(f"{min(values):.2f} to {max(values):.2f} over {name}")
        return " and ".join(parts)

    ours = text(lambda cell: cell.ours)
    printed = text(lambda cell: cell.printed)
    return f"In the paper, AA ranges from {printed}. {f'Ours: {ours}.' if ours else NONE_YET}"


def _printed(cells: Iterable[Cell]) -> list[float]:
    return [cell.printed.value for cell in cells if cell.printed]


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{high:+.2f}" if low == high else f"{low:+.2f} to {high:+.2f}"


def _ours(table: Table, named: Iterable[tuple[str, Cell]]) -> str:
    """Return a sentence on our differences, each with its interval and its row."""
    texts = []
    for name, cell in named:
        number = cell.ours
        if number is not None:
            seeds = f", {number.seeds} seeds" if (number.seeds or 1) > 1 else ""
            interval = interval_text(number)
            texts.append(f"{number.value:+.2f}{interval and f' {interval}'} ({name}{seeds})")
    if texts:
        return f"Ours: {'; '.join(texts)}."
    return NOT_PAIRED if table.has_ours else NONE_YET
