"""Import and export of RobustBench's entries, one JSON file each.

A file's path is ``<dataset>/<threat>/<model>.json``. All numbers are text, accuracies in percent
with two decimals; optional fields that are unknown are left out.
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.config import eps_text
from harness.errors import UserError
from harness.store.database import Database
from harness.store.files import write_bytes_atomic
from harness.store.schema import REPORTED
from leaderboards.protocols import is_standard_attack
from leaderboards.results import load_runs
from leaderboards.table import ROBUSTBENCH

# RobustBench's names of metrics, and those in ``reported``.
METRICS = {
    "clean_acc": "clean",
    "autoattack_acc": "aa",
    "reported": "aa_reported",
    "external": "aa_external",
    "corruptions_acc": "corruptions",
    "corruptions_mce": "corruptions_mce",
    "corruptions_acc_3d": "corruptions_3d",
    "corruptions_mce_3d": "corruptions_3d_mce",
}
# Columns of the CSV text that is loaded into ``reported``.
FIELDS = (
    "table",
    *(c.name for c in REPORTED.columns if c.name not in ("row_number", "table_number", "page")),
)
# Values of an unknown number in RobustBench's files.
UNKNOWN = (None, "null", "")
EVALUATIONS = "SELECT * FROM finished_evaluations WHERE run_id = $run_id"
# RobustBench's boards by our dataset and norm: radius and number of test images required.
BOARDS = {
    ("cifar10", "Linf"): ("8/255", 10_000),
    ("cifar10", "L2"): ("0.5", 10_000),
    ("cifar100", "Linf"): ("8/255", 10_000),
    ("imagenet-robustbench", "Linf"): ("4/255", 5_000),
}
# RobustBench's names of our datasets, where they differ.
THEIR_NAMES = {"imagenet-robustbench": "imagenet"}
# RobustBench's folders: datasets, and threat models in each.
DATASETS = ("cifar10", "cifar100", "imagenet")
THREATS = ("Linf", "L2", "corruptions", "corruptions_3d")


class Entry(BaseModel):
    """One entry in RobustBench's format; unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    link: str
    name: str
    authors: str
    additional_data: bool
    number_forward_passes: int
    dataset: str
    venue: str
    architecture: str
    eps: str | None
    clean_acc: str
    reported: str | None
    autoattack_acc: str | None = None
    external: str | None = None
    corruptions_acc: str | None = None
    corruptions_mce: str | None = None
    corruptions_acc_3d: str | None = None
    corruptions_mce_3d: str | None = None
    footnote: str | None = None
    unreliable: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, in order."""
        return self.model_dump(mode="json", exclude_unset=True)


def read_entry(path: Path) -> Entry:
    """Read the entry in a file.

    Raises:
        UserError: the file is not in RobustBench's format.
    """
    try:
        return Entry.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        what = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg'].lower()}"
        raise UserError(
            f"{path} is not a model_info file of RobustBench ({what}): restore or remove it"
        ) from error


@dataclass(frozen=True)
class Imported:
    """Result of an import: the number of entries, and remarks on them, one sentence each."""

    entries: int
    remarks: tuple[str, ...]


def import_folder(folder: Path, results: Path) -> Imported:
    """Load every entry below a folder into ``reported``, replacing those loaded before.

    An entry's dataset and threat model are those of its folders: five published files name a
    different dataset than their folder.

    Raises:
        UserError: the folder has no JSON file, a file in it is not an entry or not in a folder
            ``<dataset>/<threat>``, or two files are the same entry.
    """
    paths = sorted(Path(os.path.abspath(folder)).rglob("*.json"))
    if not paths:
        raise UserError(
            f"{folder} holds no JSON file: give the folder model_info of a RobustBench checkout"
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    first_paths: dict[tuple[str, ...], Path] = {}
    remarks = []
    for path in paths:
        entry, key = read_entry(path), _key(path)
        first = first_paths.setdefault(key, path)
        if first != path:
            raise UserError(f"{first} and {path} are both the entry {'/'.join(key)}: remove one")
        remark = _remark(key[0], entry)
        if remark:
            remarks.append(f"{'/'.join(key)}: {remark}")
        writer.writerows(lines_of(path, key, entry, remark))
    Database(results).publish(text.getvalue())
    return Imported(len(paths), tuple(remarks))


def _key(path: Path) -> tuple[str, str, str]:
    """Return the dataset, threat model and name of an entry."""
    dataset, threat = path.parent.parent.name, path.parent.name
    if dataset not in DATASETS or threat not in THREATS:
        raise UserError(
            f"{path} is not in a folder such as cifar10/Linf: give the folder model_info of a "
            "RobustBench checkout"
        )
    return dataset, threat, path.stem


def _remark(dataset: str, entry: Entry) -> str:
    if entry.dataset == dataset:
        return ""
    return f"the file names the dataset {entry.dataset}; the dataset of its folder is used"


def export_run(
    results: Path, run_id: str, out: Path, *, metadata: Mapping[str, Any], bibtex: str = ""
) -> Entry:
    """Write a run's entry to a JSON file.

    Args:
        results: the results folder.
        run_id: the run's full name.
        out: the file to write.
        metadata: fields of ``Entry`` that the run does not have, such as ``name``, ``authors``,
            ``link`` and ``venue``; None counts as missing.
        bibtex: the paper's BibTeX entry, which provides missing fields.

    Raises:
        UserError: the run has no evaluation that RobustBench would accept, or a field is missing.
    """
    found = load_runs(Database(results), EVALUATIONS, {"run_id": run_id})
    run = next((run for run in found if _is_standard(run)), None)
    if run is None:
        raise UserError(
            f"run {run_id} has no finished evaluation that RobustBench accepts (standard "
            f"AutoAttack for {_boards()}, in float32 on the full test set): evaluate the run that "
            "way first"
        )
    given = {name: value for name, value in metadata.items() if value is not None}
    known = _paper(bibtex) | _facts(run) | given
    needed = ("link", "name", "authors", "venue", "additional_data")
    lacking = [name for name in needed if known.get(name) in (None, "")]
    if lacking:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in lacking)
        raise UserError(f"RobustBench needs {', '.join(lacking)} of the paper: give {options}")
    known.setdefault("reported", known["autoattack_acc"])
    _check_percent(known["reported"])
    ordered = {name: known[name] for name in Entry.model_fields if name in known}
    entry = Entry.model_validate(ordered)
    text = json.dumps(entry.to_json(), indent=2, ensure_ascii=False) + "\n"
    write_bytes_atomic(text.encode(), out)
    return entry


def _check_percent(reported: str) -> None:
    """Raise a UserError unless the text is a number of percent."""
    try:
        right = 0 <= float(reported) <= 100
    except ValueError:
        right = False
    if not right:
        raise UserError(
            f"--reported {reported!r} is no accuracy in percent: give one, such as 56.3"
        )


def _is_standard(run: Mapping[str, Any]) -> bool:
    board = BOARDS.get((run["dataset"], run["norm"]))
    return (
        board == (eps_text(run["eps"]), run["n"]) and not run["partial"] and is_standard_attack(run)
    )


def _facts(run: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "additional_data": None if run["kind"] == "loaded" else False,
        "number_forward_passes": 1,
        "dataset": THEIR_NAMES.get(run["dataset"], run["dataset"]),
        "architecture": architecture(run["arch"] or ""),
        "eps": eps_text(run["eps"]),
        "clean_acc": f"{100 * run['metrics']['clean'].value:.2f}",
        "autoattack_acc": f"{100 * run['metrics']['aa'].value:.2f}",
        "unreliable": bool(run["flags"]),
    }
    if run["generated_name"]:
        size = run["generated_name"].rpartition("-")[2].upper()
        facts["footnote"] = f"It uses additional {size} synthetic images in training."
    return facts


def architecture(arch: str) -> str:
    """Return an architecture's name at RobustBench; an unknown name is unchanged."""
    wide = re.fullmatch(r"wrn-(\d+)-(\d+)(-\w+)?", arch)
    if wide:
        return f"WideResNet-{wide[1]}-{wide[2]}"
    plain = re.fullmatch(r"(?:imagenet-)?(preact-)?resnet-?(\d+)(?:-cifar)?", arch)
    if plain:
        return f"{'PreActResNet' if plain[1] else 'ResNet'}-{plain[2]}"
    return arch


def _paper(bibtex: str) -> dict[str, str]:
    """Return the title, authors and venue that a BibTeX entry has."""
    fields = dict(re.findall(r"(\w+)\s*=\s*[{\"](.+?)[}\"],?\s*$", bibtex, re.MULTILINE))
    found = {}
    if "title" in fields:
        found["name"] = fields["title"].replace("{", "").replace("}", "")
    if "author" in fields:
        people = [" ".join(reversed(who.split(", ", 1))) for who in fields["author"].split(" and ")]
        found["authors"] = ", ".join(people)
    venue = fields.get("booktitle") or fields.get("journal")
    if venue and "year" in fields:
        found["venue"] = f"{venue} {fields['year']}"
    return found


def lines_of(
    path: Path, key: tuple[str, str, str], entry: Entry, remark: str
) -> list[dict[str, Any]]:
    """Return the entry's numbers as lines of ``reported``."""
    dataset, threat, name = key
    facts = {
        "threat": threat,
        "eps": entry.eps or "",
        "extra_data": "yes" if entry.additional_data else "no",
        "passes": str(entry.number_forward_passes),
        "unreliable": {True: "yes", False: "no", None: "unknown"}[entry.unreliable],
    }
    shared = {
        "table": 0,
        "dataset": dataset,
        "task": "at",
        "method": name,
        "citation": f"{entry.name} ({entry.venue})",
        "student_or_arch": entry.architecture,
        "augmentation": "extra data" if entry.additional_data else "",
        "setting": ";".join(f"{name}={value}" for name, value in facts.items()),
        "bold": 0,
        "underlined": 0,
        "note": plain(f"{entry.footnote or ''} {remark}"),
        "badge": ROBUSTBENCH,
        "source": entry.link,
    }
    lines = []
    for field, metric in METRICS.items():
        text = getattr(entry, field)
        if text not in UNKNOWN:
            try:
                lines.append(shared | {"metric": metric, "value": float(text)})
            except ValueError as error:
                raise UserError(
                    f"{path} has {field} {text!r}, which is not a number: restore or remove it"
                ) from error
    return lines


def plain(text: str) -> str:
    """Return a footnote on one line, without HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())


def _boards() -> str:
    return ", ".join(
        f"{dataset} {norm} {eps} (n = {n:,})" for (dataset, norm), (eps, n) in BOARDS.items()
    )
