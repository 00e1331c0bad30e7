"""Entries that RobustBench published, beside the printed rows of the same threat model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.evaluation.statistics import wilson_interval
from harness.store.database import Database
from leaderboards.badges import ROBUSTBENCH
from leaderboards.declared import TableSpec
from leaderboards.peers import records
from leaderboards.rendered import PUBLISHED_ROW, Cell, Number, RenderedRow

ENTRIES = """
SELECT method, citation, student_or_arch, augmentation, metric, value, note, source
FROM reported
WHERE badge = $badge AND dataset = $dataset AND list_contains(string_split(setting, ';'), $eps)
  AND list_contains(string_split(setting, ';'), 'threat=Linf')
ORDER BY row_number
"""
SECTION = "RobustBench, as published"
COLUMNS = {"clean": "clean", "aa": "aa"}


def published_rows(spec: TableSpec, results: Path) -> tuple[RenderedRow, ...]:
    """The entries of the table's data set and radius, most robust first.

    Raises:
        UserError: the database cannot be read.
    """
    if spec.threat is None:
        return ()
    dataset, eps = spec.threat
    params = {"badge": ROBUSTBENCH, "dataset": dataset, "eps": f"eps={eps}"}
    entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in records(Database(results), ENTRIES, params):
        entries[line["method"]].append(line)
    rows = [_row(spec, dataset, lines) for lines in entries.values()]
    return tuple(sorted(rows, key=_robust, reverse=True))


def _row(spec: TableSpec, dataset: str, lines: list[dict[str, Any]]) -> RenderedRow:
    first = lines[0]
    cells = {
        COLUMNS[line["metric"]]: Cell(printed=_number(line, spec.images))
        for line in lines
        if line["metric"] in COLUMNS
    }
    data = first["augmentation"]
    return RenderedRow(
        PUBLISHED_ROW,
        (first["method"], first["student_or_arch"], data),
        SECTION,
        cells,
        facts={
            "method": "",
            "arch": first["student_or_arch"],
            "teacher": "",
            "dataset": dataset,
            "augmentation": data,
            "selection": "",
            "scale": "paper",
            "source": ROBUSTBENCH,
        },
        notes=tuple(filter(None, (first["citation"], first["note"], first["source"]))),
    )


def _number(line: Mapping[str, Any], n: int) -> Number:
    low, high = wilson_interval(round(line["value"] / 100 * n), n)
    return Number(
        line["value"], ROBUSTBENCH, low=100 * low, high=100 * high, n=n, note=line["note"] or ""
    )


def _robust(row: RenderedRow) -> float:
    cell = row.cells.get("aa")
    return cell.printed.value if cell and cell.printed else -1.0
