"""Numbers printed in the paper, and numbers in the authors' logs."""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

from harness.errors import UserError
from harness.evaluation.analysis.statistics import wilson_interval
from leaderboards.paper import TABLES
from leaderboards.spec import (
    BASIC,
    Facts,
    arch_text,
    architecture_names,
    dataset_name,
    setting_facts,
)
from leaderboards.table import LOGGED, PRINTED, PRINTED_ROW, Cell, Number, Row

REPORTED_CSV = Path(__file__).with_name("reported.csv")

# Metric names in ``reported.csv`` and ours.
PRINTED_METRICS = {
    "clean": "clean",
    "top1": "clean",
    "apgd_ce": "apgd-ce",
    "apgd_t": "apgd-t",
    "aa": "aa",
    "sec_per_iter": "sec_per_iter",
}

COLUMNS = (
    "table dataset task method citation teacher student_or_arch augmentation setting metric value "
    "std bold underlined note"
).split()


@cache
def printed_lines(path: Path = REPORTED_CSV) -> tuple[dict[str, str], ...]:
    """Return the lines of ``reported.csv`` as facts, among them those of the column ``setting``.

    Accuracies are in percent; a text is empty where nothing is printed.

    Raises:
        UserError: the file is missing or has other columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
            return tuple(setting_facts(line["setting"]) | line for line in reader)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a file of printed numbers ({error}): restore it") from error


def has(line: Facts, facts: Facts) -> bool:
    """Whether a line has all these facts; a missing fact counts as empty."""
    return all(line.get(name, "") == value for name, value in facts.items())


def evidence_of(line: Facts) -> str:
    """Return the evidence that the paper contradicts a printed number; empty if it does not."""
    table = TABLES.get(int(line["table"]))
    for disputed in table.disputed if table else ():
        named = not disputed.metrics or line["metric"] in disputed.metrics
        if named and has(line, disputed.where):
            return disputed.evidence
    return ""


def selection_of(line: Facts) -> str:
    """Return how the epoch of a printed number was chosen; empty if that is unknown."""
    rows = TABLES[int(line["table"])].rows
    return next((row.selection for row in rows if has(line, row.where)), "")


def is_difference(line: Facts) -> bool:
    """Whether a line is a printed difference of two rows."""
    return line["method"].startswith("Delta")


def percent_interval(percent: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson interval, in percent, of an accuracy given in percent."""
    low, high = wilson_interval(round(percent / 100 * n), n)
    return 100 * low, 100 * high


def printed_number(line: Facts) -> Number:
    """Return the number of a line as printed, with an interval if it is an accuracy."""
    spec, value = TABLES[int(line["table"])], float(line["value"])
    low = high = n = seeds = None
    if line["metric"] != "sec_per_iter" and not is_difference(line):
        n, seeds = spec.images, spec.models if spec.models > 1 else None
        low, high = percent_interval(value, n)
    return Number(
        value,
        PRINTED,
        low=low,
        high=high,
        std=float(line["std"]) if line["std"] else None,
        n=n,
        seeds=seeds,
        bold=line["bold"] == "1",
        underlined=line["underlined"] == "1",
        disputed=evidence_of(line),
        note=line["note"],
        difference=is_difference(line),
    )


def logged_number(line: Facts) -> Number | None:
    """Return the number in the authors' log for a line; None if there is none."""
    for log in TABLES[int(line["table"])].logged:
        if has(line, log.where) and line["metric"] in log.values:
            return Number(log.values[line["metric"]], LOGGED, note=log.source)
    return None


def printed_rows(
    dataset: str, arch: str, teacher: str, *, metric: str, augmentation: str = BASIC
) -> list[Row]:
    """Return the printed rows of an architecture and its training data, each row once.

    Their labels are the method and the architecture; their cells have our metric names. Tables 6, 8
    and 9, which vary the parameters of one row of Table 2, are left out.

    Arguments are registered names; ``teacher`` is empty for a model that was not distilled,
    ``metric`` is one that the rows must have, and ``augmentation`` is as printed.
    """
    rows: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for line in printed_lines():
        if (
            dataset_name(line["dataset"]) == dataset
            and arch in architecture_names(line["student_or_arch"])
            and teacher in architecture_names(line["teacher"])
            and (line["augmentation"] or BASIC) == augmentation
            and line["metric"] in PRINTED_METRICS
            and "panel" not in line
            and not is_difference(line)
        ):
            rows[line["task"], line["table"], line["method"], line["setting"]].append(line)
    found: list[Row] = []
    values: list[dict[str, float]] = []
    # The ablation prints the chosen variant's row again, so it goes last and adds only new rows.
    for (task, table, method, _), lines in sorted(
        rows.items(), key=lambda item: item[0][0] == "ablation"
    ):
        cells = {
            PRINTED_METRICS[line["metric"]]: Cell(printed=printed_number(line)) for line in lines
        }
        own = {name: cell.numbers[0].value for name, cell in cells.items()}
        if metric in cells and not (task == "ablation" and own in values):
            values.append(own)
            text = arch_text(lines[0]["student_or_arch"], lines[0]["teacher"])
            facts = {"source": PRINTED, "table": table, "augmentation": augmentation}
            facts["selection"] = selection_of(lines[0])
            found.append(Row(PRINTED_ROW, (method, text), cells=cells, facts=facts))
    return found
