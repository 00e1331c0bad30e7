"""RobustBench's published entries: those shipped with the repository, or a newer import.

``robustbench_entries.csv`` has the 236 entries of https://github.com/RobustBench/robustbench, one
line for each file in its folder ``model_info``; footnotes are left out.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.store.database import Database
from leaderboards.results import records
from leaderboards.robustbench import Entry, lines_of
from leaderboards.spec import setting_facts
from leaderboards.table import ROBUSTBENCH

ENTRIES_CSV = Path(__file__).with_name("robustbench_entries.csv")
IMPORTED = "SELECT * FROM reported WHERE badge = $badge ORDER BY row_number"
# Columns of the file whose names differ from the fields of ``Entry``.
FIELDS = {
    "clean": "clean_acc",
    "autoattack": "autoattack_acc",
    "corruptions": "corruptions_acc",
}
BOOLEANS = {"True": True, "False": False}
# The boards for 8/255, which is 0.0314, include entries at radius 0.031 and say so.
SAME_RADIUS = {"0.031": "8/255"}


@dataclass(frozen=True)
class Published:
    """One entry of a board under attack; accuracies in percent.

    Attributes:
        key: the name by which RobustBench loads the model.
        arch: the architecture, with WRN for WideResNet.
        extra_data: whether it was trained on additional real images. Generated ones do not count.
        clean: accuracy on clean images.
        aa: accuracy under AutoAttack.
        external: accuracy under the strongest external attack; None if there is none.
        unreliable: whether RobustBench calls ``aa`` potentially unreliable.
        eps: the radius as published, such as 8/255.
        citation: the paper and where it appeared.
        note: a footnote.
        link: the paper's address.
    """

    key: str
    arch: str
    extra_data: bool
    clean: float
    aa: float
    external: float | None
    unreliable: bool
    eps: str
    citation: str
    note: str
    link: str

    @property
    def best_known(self) -> float:
        """The lowest known accuracy under attack, by which RobustBench ranks."""
        return self.aa if self.external is None else min(self.aa, self.external)


@cache
def shipped_lines() -> tuple[dict[str, Any], ...]:
    """Return the shipped entries as lines of the database table ``reported``."""
    lines = []
    with ENTRIES_CSV.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key, threat = row.pop("key"), row.pop("threat_model")
            fields: dict[str, Any] = {FIELDS.get(k, k): text or None for k, text in row.items()}
            fields["additional_data"] = BOOLEANS[row["additional_data"]]
            fields["unreliable"] = BOOLEANS.get(row["unreliable"])
            fields["number_forward_passes"] = int(row["number_forward_passes"])
            fields |= {name: row[name] for name in ("authors", "venue")}
            place = (row["dataset"], threat, key)
            lines += lines_of(ENTRIES_CSV, place, Entry.model_validate(fields), "")
    return tuple(lines)


def board(dataset: str, eps: str, results: Path | None, threat: str = "Linf") -> list[Published]:
    """Return the entries of a board under attack, best first by the lowest known accuracy.

    Args:
        dataset: registered name.
        eps: the board's radius, such as ``8/255``.
        results: the results folder; entries imported into it replace the shipped ones.
        threat: the norm.

    Raises:
        UserError: the database cannot be read.
    """
    lines: Sequence[Mapping[str, Any]] = ()
    if results is not None and Database(results).path.exists():
        lines = records(Database(results), IMPORTED, {"badge": ROBUSTBENCH})
    by_key: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines or shipped_lines():
        facts = setting_facts(line["setting"])
        radius = SAME_RADIUS.get(facts["eps"], facts["eps"])
        if line["dataset"] == dataset and facts["threat"] == threat and radius == eps:
            by_key[line["method"]].append(line)
    found = [entry for own in by_key.values() if (entry := _entry(own)) is not None]
    return sorted(found, key=lambda entry: entry.best_known, reverse=True)


def _entry(lines: Sequence[Mapping[str, Any]]) -> Published | None:
    """Return the entry of these lines; None if it lacks clean or AutoAttack accuracy."""
    first, facts = lines[0], setting_facts(lines[0]["setting"])
    values = {line["metric"]: float(line["value"]) for line in lines}
    if "aa" not in values or "clean" not in values:
        return None
    return Published(
        key=first["method"],
        arch=first["student_or_arch"].replace("WideResNet", "WRN"),
        extra_data=facts["extra_data"] == "yes",
        clean=values["clean"],
        aa=values["aa"],
        external=values.get("aa_external"),
        unreliable=facts["unreliable"] == "yes",
        eps=facts["eps"],
        citation=first["citation"],
        note=first["note"] or "",
        link=first["source"] or "",
    )
