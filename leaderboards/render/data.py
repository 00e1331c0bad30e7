"""Tables as data: CSV with one number per line, and JSON of the whole table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

from leaderboards.protocols import TIMES
from leaderboards.render import escape
from leaderboards.table import Column, Number, Table

FACTS = ("method", "arch", "teacher", "dataset", "augmentation", "selection", "scale")
# Fields of a number; its flags and runs follow.
OWN = tuple(
    field.name
    for field in dataclasses.fields(Number)
    if field.name not in ("difference", "flags", "run_ids", "pairs")
)
FIELDS = (
    *("table", "row", "kind", "section", "rank", "partial", "name"),
    *FACTS,
    *("column", "metric", "unit", "difference"),
    *OWN,
    *("flags", "run_ids"),
)


def to_csv(table: Table) -> str:
    """Return one number per line under ``FIELDS``; unknown is empty, lists are joined by spaces.

    All numbers of a line except ``n`` and ``seeds`` are in its ``unit``: percent, points or
    seconds. ``low`` and ``high`` are computed here, for printed numbers too.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for position, row in enumerate(table.rows, 1):
        for column in table.columns:
            for number in row.cell(column.key).numbers:
                facts = {
                    "table": table.number,
                    "row": position,
                    "kind": row.kind,
                    "section": row.group,
                    "rank": row.rank,
                    "partial": row.partial,
                    "name": table.name_of(row),
                    "column": column.key,
                    "metric": column.metric,
                    "unit": _unit(number, column),
                }
                facts |= {name: row.facts.get(name, "") for name in FACTS}
                facts |= {name: getattr(number, name) for name in (*OWN, "difference")}
                facts["flags"], facts["run_ids"] = map(" ".join, (number.flags, number.run_ids))
                writer.writerow({name: escape.csv(value) for name, value in facts.items()})
    return text.getvalue()


def to_json(table: Table) -> str:
    """Return the whole table, with the fields of ``leaderboards.table``."""
    return json.dumps(dataclasses.asdict(table), indent=2, ensure_ascii=False) + "\n"


def _unit(number: Number, column: Column) -> str:
    if column.metric in TIMES:
        return "seconds"
    return "points" if number.difference else "percent"
