"""Entries that RobustBench published, beside the printed rows of the same threat model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.evaluation.analysis.statistics import wilson_interval
from harness.store.database import Database
from leaderboards.like_runs import records
from leaderboards.spec import TableSpec
from leaderboards.table import PUBLISHED_ROW, ROBUSTBENCH, Cell, Number, Row

ENTRIES = """
SELECT method, citation, student_or_arch, augmentation, setting, metric, value, note, source
FROM reported
WHERE badge = $badge AND dataset = $dataset AND list_contains(string_split(setting, ';'), $eps)
  AND list_contains(string_split(setting, ';'), 'threat=Linf')
ORDER BY row_number
"""
SECTION = "RobustBench, as published"
COLUMNS = {"clean": "clean", "aa": "aa"}
UNRELIABLE = "RobustBench calls AutoAttack's number potentially unreliable"


def published_rows(spec: TableSpec, results: Path) -> tuple[Row, ...]:
    """The entries of the table's data set and radius, most robust first.

    As on RobustBench's own board, an attack from elsewhere that leaves less than AutoAttack counts.

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
    ordered = sorted(entries.values(), key=_robust, reverse=True)
    return tuple(_row(spec, dataset, lines) for lines in ordered)


def _row(spec: TableSpec, dataset: str, lines: list[dict[str, Any]]) -> Row:
    first, values = lines[0], _values(lines)
    flags = _flags(first["setting"], values)
    cells = {
        COLUMNS[line["metric"]]: Cell(
            printed=_number(line, spec.images, flags if line["metric"] == "aa" else ())
        )
        for line in lines
        if line["metric"] in COLUMNS
    }
    external = ""
    if "aa_external" in values:
        external = f"The best attack from elsewhere leaves {values['aa_external']:.2f}."
    data = first["augmentation"]
    return Row(
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
        notes=tuple(filter(None, (first["citation"], external, first["note"], first["source"]))),
    )


def _number(line: Mapping[str, Any], n: int, flags: tuple[str, ...]) -> Number:
    low, high = wilson_interval(round(line["value"] / 100 * n), n)
    return Number(
        line["value"],
        ROBUSTBENCH,
        low=100 * low,
        high=100 * high,
        n=n,
        note=line["note"] or "",
        flags=flags,
    )


def _values(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {line["metric"]: line["value"] for line in lines}


def _flags(setting: str, values: Mapping[str, float]) -> tuple[str, ...]:
    """Why AutoAttack's number is more than the model holds, or may be."""
    found = [UNRELIABLE] * ("unreliable=yes" in setting.split(";"))
    aa, external = values.get("aa"), values.get("aa_external")
    if aa is not None and external is not None and external < aa:
        found.append(f"an attack from elsewhere leaves {external:.2f}, by which it ranks here")
    return tuple(found)


def _robust(lines: Sequence[Mapping[str, Any]]) -> float:
    """The lowest accuracy that an attack is known to leave."""
    values = _values(lines)
    return min((values[name] for name in ("aa", "aa_external") if name in values), default=-1.0)
