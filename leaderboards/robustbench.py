"""RobustBench's entries: one JSON file each, in and out.

Their folder is ``<data set>/<threat>/<model>.json``; all numbers are text, accuracies percent with
two decimals. The optional fields are left out where nothing is known.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.config import eps_text
from harness.errors import UserError
from harness.store.database import Database
from harness.store.files import write_bytes_atomic
from leaderboards.like_runs import records
from leaderboards.protocols import STANDARD_ATTACKS, STANDARD_VERSION, attacks_of
from leaderboards.table import ROBUSTBENCH

# Their names for what ``reported`` calls these metrics.
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
FIELDS = (
    "table",
    "dataset",
    "task",
    "method",
    "citation",
    "teacher",
    "student_or_arch",
    "augmentation",
    "setting",
    "metric",
    "value",
    "std",
    "bold",
    "underlined",
    "note",
    "badge",
    "source",
)
# How their files say that a number is not known.
UNKNOWN = (None, "null", "")
# Their boards by data set and norm, with the images that an entry must be measured on.
BOARDS = {
    ("cifar10", "Linf"): ("8/255", 10_000),
    ("cifar10", "L2"): ("0.5", 10_000),
    ("cifar100", "Linf"): ("8/255", 10_000),
    ("imagenet", "Linf"): ("4/255", 5_000),
}


class Entry(BaseModel):
    """One entry as RobustBench keeps it; fields that it gains later are kept too."""

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
        """The fields that are set, in their order."""
        return self.model_dump(mode="json", exclude_unset=True)


def read_entry(path: Path) -> Entry:
    """The entry of one file.

    Raises:
        UserError: the file is none of RobustBench's.
    """
    try:
        return Entry.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        what = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg'].lower()}"
        raise UserError(
            f"{path} is no model_info file of RobustBench ({what}): restore or remove it"
        ) from error


def import_folder(folder: Path, results: Path) -> int:
    """Load every entry below a folder into ``reported``; gives how many there are.

    They take the place of those loaded before.

    Raises:
        UserError: the folder holds no entry, or a file in it is none.
    """
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise UserError(
            f"{folder} holds no JSON file: give the folder model_info of a RobustBench checkout"
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for path in paths:
        writer.writerows(_lines(path, read_entry(path)))
    Database(results).publish("robustbench", text.getvalue())
    return len(paths)


def export_run(
    results: Path,
    run_id: str,
    out: Path,
    *,
    metadata: Mapping[str, Any],
    bibtex: str = "",
) -> Entry:
    """Write a run's entry.

    Args:
        results: the results folder.
        run_id: the run's whole name.
        out: the file to write.
        metadata: fields of ``Entry`` that the run cannot know, such as ``name``, ``authors``,
            ``link`` and ``venue``; a None is as good as missing.
        bibtex: the paper's BibTeX entry, from which missing ones are taken.

    Raises:
        UserError: the run has no evaluation that RobustBench would take, or a field is missing.
    """
    found = records(Database(results), EVALUATION, {"run_id": run_id})
    whole = next((run for run in found if _is_standard(run)), None)
    if whole is None:
        raise UserError(
            f"run {run_id} has no finished evaluation that RobustBench takes, standard AutoAttack "
            f"of {_boards()} in float32 on the whole test set: evaluate it so first"
        )
    given = {name: value for name, value in metadata.items() if value is not None}
    known = _paper(bibtex) | _facts(whole) | given
    lacking = [name for name in ("link", "name", "authors", "venue") if not known.get(name)]
    if lacking:
        options = ", ".join(f"--{name}" for name in lacking)
        raise UserError(f"RobustBench wants {', '.join(lacking)} of the paper: give {options}")
    known.setdefault("reported", known["autoattack_acc"])
    ordered = {name: known[name] for name in Entry.model_fields if name in known}
    entry = Entry.model_validate(ordered)
    text = json.dumps(entry.to_json(), indent=2, ensure_ascii=False) + "\n"
    write_bytes_atomic(text.encode(), out)
    return entry


EVALUATION = """
SELECT r.dataset, r.arch, r.config->'data'->>'generated_name' AS generated, r.scale,
       coalesce(r.partial, false) OR coalesce(e.partial, false) AS partial,
       e.norm, e.eps, e.attacks, e.attack_version, e.n, e.precision, e.flags,
       clean.value AS clean, aa.value AS aa
FROM runs r JOIN evaluations e USING (run_id)
JOIN metrics clean ON (clean.run_id, clean.evaluation_id, clean.name)
    = (e.run_id, e.evaluation_id, 'clean')
JOIN metrics aa ON (aa.run_id, aa.evaluation_id, aa.name) = (e.run_id, e.evaluation_id, 'aa')
WHERE r.run_id = $run_id AND e.status = 'success'
ORDER BY e.finished_at DESC, e.evaluation_id
"""


def _is_standard(run: Mapping[str, Any]) -> bool:
    board = BOARDS.get((run["dataset"], run["norm"]))
    return (
        board == (eps_text(run["eps"]), run["n"])
        and not run["partial"]
        and run["precision"] == "float32"
        and attacks_of(run) == STANDARD_ATTACKS
        and STANDARD_VERSION.fullmatch(run["attack_version"]) is not None
    )


def _facts(run: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": run["dataset"],
        "architecture": architecture(run["arch"] or ""),
        "eps": eps_text(run["eps"]),
        "clean_acc": f"{100 * run['clean']:.2f}",
        "autoattack_acc": f"{100 * run['aa']:.2f}",
        "unreliable": bool(json.loads(run["flags"] or "[]")),
    }
    if run["generated"]:
        size = run["generated"].rpartition("-")[2].upper()
        facts["footnote"] = f"It uses additional {size} synthetic images in training."
    return facts


def architecture(arch: str) -> str:
    """A network as RobustBench writes it; a name that it does not have stays."""
    wide = re.fullmatch(r"wrn-(\d+)-(\d+)(-\w+)?", arch)
    if wide:
        return f"WideResNet-{wide[1]}-{wide[2]}"
    plain = re.fullmatch(r"(?:imagenet-)?(preact-)?resnet-?(\d+)(?:-cifar)?", arch)
    if plain:
        return f"{'PreActResNet' if plain[1] else 'ResNet'}-{plain[2]}"
    return arch


def _paper(bibtex: str) -> dict[str, str]:
    """Title, authors and venue of a BibTeX entry, as far as it has them."""
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


def _lines(path: Path, entry: Entry) -> list[dict[str, Any]]:
    """The entry's numbers as lines of ``reported``."""
    threat = path.parent.name
    facts = {
        "threat": threat,
        "eps": entry.eps or "",
        "extra_data": "yes" if entry.additional_data else "no",
        "passes": str(entry.number_forward_passes),
        "unreliable": {True: "yes", False: "no", None: "unknown"}[entry.unreliable],
    }
    shared = {
        "table": 0,
        "dataset": entry.dataset,
        "task": "at",
        "method": path.stem,
        "citation": f"{entry.name} ({entry.venue})",
        "student_or_arch": entry.architecture,
        "augmentation": "extra data" if entry.additional_data else "",
        "setting": ";".join(f"{name}={value}" for name, value in facts.items()),
        "bold": 0,
        "underlined": 0,
        "note": plain(entry.footnote or ""),
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
                    f"{path} has {field} {text!r}, which is no number: restore or remove it"
                ) from error
    return lines


def plain(text: str) -> str:
    """A footnote without its HTML, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())


def _boards() -> str:
    return ", ".join(
        f"{dataset} {norm} {eps} (n = {n})" for (dataset, norm), (eps, n) in BOARDS.items()
    )
