"""The printed numbers of the paper's tables, one metric a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import UserError
from harness.evaluation.analysis.statistics import wilson_interval
from leaderboards.names import architecture_names, dataset_name
from leaderboards.paper import TABLES
from leaderboards.ranking import Entry, Score, arch_text
from leaderboards.table import PRINTED

REPORTED_CSV = Path(__file__).with_name("reported.csv")

# Metric names of the printed numbers and ours.
PRINTED_METRICS = {
    "clean": "clean",
    "top1": "clean",
    "apgd_ce": "apgd-ce",
    "apgd_t": "apgd-t",
    "aa": "aa",
    "sec_per_iter": "sec_per_iter",
}

_TYPES = {
    "table": "int64",
    "value": "float64",
    "std": "float64",
    "bold": "int64",
    "underlined": "int64",
}


def load_reported(path: Path = REPORTED_CSV) -> pd.DataFrame:
    """The file's rows and columns, typed, and a column ``disputed``.

    Numbers are as printed: accuracies in percent, ``std`` NaN where none is printed. ``table`` is
    an integer, ``bold`` and ``underlined`` are booleans, as is ``disputed``: whether the paper
    contradicts itself there. All else is text, empty where nothing is printed.

    Raises:
        UserError: the file is missing or is no such file.
    """
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame = text.assign(std=text["std"].replace("", "nan")).astype(_TYPES)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no file of printed numbers ({error}): restore it") from error
    frame = frame.astype({"bold": bool, "underlined": bool})
    return frame.assign(disputed=[bool(evidence_of(line)) for line in lines_of(frame)])


Facts = dict[str, str]


def lines_of(frame: pd.DataFrame) -> list[Facts]:
    """Each line's columns as text, with each ``name=value`` of its setting as a fact of its own."""
    found = []
    for record in frame.to_dict("records"):
        pairs = (part.partition("=") for part in record["setting"].split(";"))
        settings = {name: value for name, equals, value in pairs if equals}
        found.append(settings | {str(name): str(value) for name, value in record.items()})
    return found


def has(line: Facts, facts: Mapping[str, str]) -> bool:
    """Whether all of ``facts`` hold of a line; an empty one holds where the line has none."""
    return all(line.get(name, "") == value for name, value in facts.items())


def evidence_of(line: Facts) -> str:
    """Why the paper contradicts a printed number; empty if it does not."""
    table = TABLES.get(int(line["table"]))
    for disputed in table.disputed if table else ():
        named = not disputed.metrics or line["metric"] in disputed.metrics
        if named and has(line, disputed.where):
            return disputed.evidence
    return ""


def printed_entries(
    dataset: str, arch: str | None, teacher: str | None, *, metric: str, n: int
) -> list[Entry]:
    """The printed rows of a network trained on the data set alone, each row once.

    Args:
        dataset: registered name.
        arch: registered name of the network; of the student for a distilled one.
        teacher: registered name of the teacher; None for a network that was not distilled.
        metric: the metric that the rows must have.
        n: test images of the data set. An accuracy of one model gets its Wilson interval from it.
            The distillation tables print means of three models; theirs only ranks, and is not
            shown. The deviations that they print, at most 0.08 points, lie far within it.
    """
    lines = load_reported()
    lines = lines.assign(metric=lines["metric"].map(PRINTED_METRICS)).dropna(subset="metric")
    fits = (
        (lines["dataset"].map(dataset_name) == dataset)
        & lines["student_or_arch"].map(lambda name: arch in architecture_names(name))
        & lines["teacher"].map(lambda name: (teacher or "") in architecture_names(name))
        & lines["augmentation"].isin(["", "Basic"])
        & ~lines["setting"].str.contains("panel=")
        & ~lines["method"].str.startswith("Delta")
    )
    entries: list[Entry] = []
    # The ablation prints the chosen variant's row again, so it goes last and adds only new rows.
    rows = lines[fits].groupby(["task", "table", "method", "setting"], sort=False)
    for (task, table, method, _), row in sorted(rows, key=lambda item: item[0][0] == "ablation"):
        scores = {
            line["metric"]: _printed_score(line, n, of_several=task == "kd")
            for line in row.to_dict("records")
        }
        again = task == "ablation" and any(entry.scores == scores for entry in entries)
        if metric in scores and not again:
            first = row.iloc[0]
            arch_shown = arch_text(first["student_or_arch"], first["teacher"])
            source = f"Table {table}"
            entries.append(Entry(str(method), arch_shown, PRINTED, scores, n=n, source=source))
    return entries


def _printed_score(line: Mapping[Any, Any], n: int, *, of_several: bool) -> Score:
    """The number as ours are kept: accuracies as fractions, with their interval."""
    unit = 1 if line["metric"] == "sec_per_iter" else 100
    value = round(line["value"] / unit, 6)
    std = None if pd.isna(line["std"]) else round(line["std"] / unit, 6)
    disputed = bool(line["disputed"])
    if unit == 1:
        return Score(value, std=std, disputed=disputed)
    low, high = wilson_interval(round(value * n), n)
    if of_several:
        return Score(value, std=std, disputed=disputed, mean_low=low, mean_high=high)
    return Score(value, low, high, std, disputed)
