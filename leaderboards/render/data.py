"""A table as data: CSV with one number a line, and JSON of the whole."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

from leaderboards.render.text import method_of
from leaderboards.table import Number, Table

FACTS = ("method", "arch", "teacher", "dataset", "augmentation", "selection", "scale")
OWN = (
    "value",
    "badge",
    "low",
    "high",
    "std",
    "n",
    "seeds",
    "bold",
    "underlined",
    "from_print",
    "recomputed",
    "disputed",
    "note",
)
FIELDS = (
    *("table", "row", "kind", "section", "name"),
    *FACTS,
    *("column", "metric", "difference"),
    *OWN,
    *("flags", "run_ids"),
)


def to_csv(table: Table) -> str:
    """One number a line, under ``FIELDS``; empty where nothing is known, lists joined by spaces.

    ``low`` and ``high`` are computed here, of printed numbers too.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    columns = {column.key: column for column in table.columns}
    for place, row in enumerate(table.rows, 1):
        for key, cell in row.cells.items():
            column = columns[key]
            for number in cell.numbers:
                writer.writerow(
                    {name: _guarded(row.facts.get(name, "")) for name in FACTS}
                    | {
                        "table": table.number,
                        "row": place,
                        "kind": row.kind,
                        "section": _guarded(row.group),
                        "name": _guarded(method_of(table, row)),
                        "column": key,
                        "metric": column.metric,
                        "difference": int(column.difference or row.kind == "difference"),
                    }
                    | _own(number)
                )
    return text.getvalue()


def to_json(table: Table) -> str:
    """The whole table, as ``leaderboards.table`` describes it."""
    return json.dumps(plain(table), indent=2, ensure_ascii=False) + "\n"


def plain(table: Table) -> dict[str, Any]:
    """The table as what JSON knows: objects, lists, text and numbers."""
    return dataclasses.asdict(table)


def _own(number: Number) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in OWN:
        value = getattr(number, name)
        facts[name] = "" if value is None else int(value) if isinstance(value, bool) else value
    return facts | {
        "note": _guarded(number.note),
        "flags": _guarded(" ".join(number.flags)),
        "run_ids": " ".join(number.run_ids),
    }


def _guarded(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
