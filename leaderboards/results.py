"""Numbers of our own runs, grouped over seeds. ``like_runs`` defines which may be compared."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from harness.evaluation.analysis.comparable import is_sequential
from harness.evaluation.analysis.curves import flags_of
from harness.evaluation.analysis.flags import grey_eps
from harness.evaluation.analysis.statistics import seeds_summary
from harness.store.database import Database
from leaderboards.protocols import (
    TIMES,
    attacks_of,
    is_papers_attack,
    protocol_facts,
)
from leaderboards.render.escape import one_line
from leaderboards.spec import BASIC, BEST_ON_TEST, UNKNOWN_DATA, architecture_names, dataset_name
from leaderboards.table import REPRODUCED, SMALL, Number

Run = Mapping[str, Any]

# Longer titles of runs are cut, for lack of room in a table.
LONGEST_TITLE = 48

FINISHED = "SELECT * FROM like_runs WHERE status = 'success'"

# The run with the named evaluation, or with its newest, and all runs comparable with it.
LIKE = """
WITH own AS (
    SELECT * FROM finished_evaluations
    WHERE run_id = $run_id AND coalesce(evaluation_id = $evaluation_id, true)
    ORDER BY finished_at DESC NULLS LAST, evaluation_id LIMIT 1
), others AS (
    SELECT l.* FROM like_runs l JOIN own USING (like_key)
    WHERE l.run_id <> own.run_id AND l.status = 'success' AND (own.partial OR NOT l.partial)
)
SELECT * FROM own UNION ALL SELECT * FROM others
"""

# The runs of a query, each with the metrics of its training and its evaluation.
WITH_METRICS = """
WITH chosen AS MATERIALIZED ({sql}), measured AS (
    SELECT c.run_id, c.evaluation_id,
           list((m.name, m.value, m.low, m.high) ORDER BY m.evaluation_id NULLS FIRST) AS metrics
    FROM chosen c JOIN metrics m ON m.run_id = c.run_id
    WHERE coalesce(m.evaluation_id = c.evaluation_id, true) AND m.value IS NOT NULL GROUP BY ALL
), counted AS (
    SELECT run_id, count(*) AS evaluations FROM evaluations GROUP BY run_id
)
SELECT * FROM chosen LEFT JOIN measured USING (run_id, evaluation_id) JOIN counted USING (run_id)
ORDER BY run_id, finished_at DESC, evaluation_id
"""


class Metric(NamedTuple):
    """A stored metric with its 95% interval; an accuracy is a fraction."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in the seed, evaluated with the same protocol.

    Attributes:
        runs: rows of ``like_runs``, each with its ``metrics`` by name and its ``flags``.
        name: distinguishes the group from others with the same title.
    """

    runs: tuple[Run, ...]
    name: str

    def __getitem__(self, fact: str) -> Any:
        """A fact that all its runs share."""
        return self.runs[0][fact]

    @property
    def method_name(self) -> str:
        """The name without the size of the training set, for tables that show it separately."""
        return self.name.replace(_limit_text(self.runs[0]), "")

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The ids of its runs."""
        return tuple(run["run_id"] for run in self.runs)

    @property
    def badge(self) -> str:
        """R at the paper's scale, S below it."""
        return REPRODUCED if self["scale"] == "paper" else SMALL

    @property
    def seed_key(self) -> tuple[str, bool]:
        """Key that is equal for the same training evaluated with another protocol."""
        return self["seed_group"], self["partial"]

    @property
    def section_key(self) -> tuple[str, str, bool]:
        """Key that is equal for groups in the same section of a table: protocol, training data."""
        return self["like_key"], self.facts["augmentation"], self["partial"]

    @property
    def preference(self) -> tuple[int, str]:
        """Sort key for choosing a group: most seeds, then newest."""
        return len(self.runs), max(str(run["finished_at"]) for run in self.runs)

    @cached_property
    def facts(self) -> dict[str, str]:
        """The facts of ``Row.facts``."""
        return {
            "method": self["method"] or "",
            "arch": self["arch"] or "",
            "teacher": self["teacher"] or "",
            "dataset": self["dataset"] or "",
            "augmentation": augmentation_of(self.runs[0]),
            "selection": self["selection"] or "",
            "scale": self["scale"],
            "attack": "paper" if is_papers_attack(self.runs[0]) else "",
            "source": self.badge,
        }

    @cached_property
    def protocol(self) -> str:
        """Dataset, threat model, attack and number of images."""
        return ", ".join(protocol_facts(self.runs[0], attacks_of(self.runs[0])))

    @property
    def section_title(self) -> str:
        """Its protocol, its selection if that is on test images, and its data unless Basic."""
        chosen = ", best epoch on test" if self["selection"] == BEST_ON_TEST else ""
        data = self.facts["augmentation"]
        named = {BASIC: "", UNKNOWN_DATA: ", training data unknown"}.get(data, f", {data}")
        return f"{self.protocol}{chosen}{named}"

    @cached_property
    def note(self) -> str:
        """One line on how it was trained and measured."""
        changes = json.loads(self["recipe_changes"] or "{}")
        recipe = f"recipe {self['recipe']}" if self["recipe"] else "loaded model"
        changed = "".join(f", {path}={value}" for path, value in changes.items())
        selection = f"epoch {self['selection']}" if self["selection"] else ""
        return "; ".join(filter(None, (recipe + changed, selection, self.protocol)))

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Reasons to doubt its numbers, one sentence for each flag name."""
        found: dict[str, str] = {}
        for run in self.runs:
            for flag in run["flags"]:
                found.setdefault(flag["name"], f"{flag['name']}: {flag['detail']}")
        return tuple(found.values())

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that all its runs have."""
        first, *others = (run["metrics"] for run in self.runs)
        return tuple(name for name in first if all(name in other for other in others))

    def fits(self, *, dataset: str, arch: str, teacher: str, augmentation: str) -> bool:
        """Whether it matches the data and architectures of a printed row, given as printed."""
        return (
            self["dataset"] == dataset_name(dataset)
            and self["arch"] in architecture_names(arch)
            # A teacher's source may precede its architecture.
            and (self["teacher"] or "").rpartition(":")[2]
            in (architecture_names(teacher) if teacher else ("",))
            and augmentation in ("", self.facts["augmentation"])
        )

    def has_params(self, params: Mapping[str, float]) -> bool:
        """Whether it was trained with these parameters."""
        own = json.loads(self["params"] or "{}")
        return all(own.get(name) == value for name, value in params.items())

    def number(self, metric: str) -> Number | None:
        """Return a metric as a table shows it; None if not all runs have it."""
        if metric not in self.metrics:
            return None
        is_accuracy = metric not in TIMES
        unit = 100.0 if is_accuracy else 1.0
        mean, std = over_seeds([run["metrics"][metric] for run in self.runs])
        low, high = mean.low, mean.high
        if is_accuracy and low is not None and high is not None:
            # Student's t interval of a mean can exceed the range of an accuracy.
            low, high = 100 * max(low, 0.0), 100 * min(high, 1.0)
        return Number(
            mean.value * unit,
            self.badge,
            low=low,
            high=high,
            std=None if std is None else std * unit,
            n=int(self["n"]) if is_accuracy else None,
            sequential=is_accuracy and is_sequential(self["attack_version"]),
            seeds=len(self.runs),
            note=self.note,
            run_ids=self.run_ids,
            flags=self.flags,
        )


def run_groups(*databases: Database) -> list[RunGroup]:
    """Return the groups of all finished runs; the first database that has a run provides it.

    Raises:
        UserError: a database is missing or cannot be read.
    """
    runs: dict[tuple[str, str], Run] = {}
    for database in databases:
        for run in load_runs(database, FINISHED, {}):
            runs.setdefault((run["run_id"], run["like_key"]), run)
    # A name only has to be unique within its section.
    sections: dict[tuple[str, bool], list[Run]] = defaultdict(list)
    for run in runs.values():
        sections[run["like_key"], run["partial"]].append(run)
    return [group for section in sections.values() for group in _grouped(section)]


def like_groups(results: Path, run_id: str, evaluation_id: str | None) -> list[RunGroup]:
    """Return the given run and the runs that may be compared with it, grouped over seeds.

    The run's numbers are from the given evaluation, or its newest finished one; without such an
    evaluation the list is empty. Partial runs are included only for a partial run.

    Raises:
        UserError: the database is missing or cannot be read.
    """
    params = {"run_id": run_id, "evaluation_id": evaluation_id}
    return _grouped(load_runs(Database(results), LIKE, params))


def over_seeds(found: Sequence[Metric]) -> tuple[Metric, float | None]:
    """Return the mean with its 95% interval, and the sample standard deviation.

    A single run keeps its own interval, and its deviation is None. The interval of a mean is
    Student's t, and at least as wide as that of one run: seeds share their test images, so two that
    agree say no more about other images than one.
    """
    if len(found) == 1:
        return found[0], None
    values = [metric.value for metric in found]
    mean, seeds = statistics.fmean(values), seeds_summary(values)
    lows = (m.value if m.low is None else m.low for m in found)
    highs = (m.value if m.high is None else m.high for m in found)
    low, high = min(seeds.low, statistics.fmean(lows)), max(seeds.high, statistics.fmean(highs))
    return Metric(mean, low, high), statistics.stdev(values)


def records(database: Database, sql: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a query's rows, with None for missing values."""
    names, rows = database.fetch(sql, params)
    return [dict(zip(names, row, strict=True)) for row in rows]


def training_images(run: Run, available: int | None = None) -> int | None:
    """Return the number of images trained on; None without a limit and the number available."""
    # Validation images are held out of those that the limit leaves.
    chosen = run["train_limit"] or available
    return None if chosen is None else int(chosen) - int(run["val_size"] or 0)


def augmentation_of(run: Run) -> str:
    """Return the training data as the paper names it: ``ddpm-1m`` is 1M Generated Data.

    It is unknown for a loaded model, whose source does not say what it was trained on.
    """
    if run["kind"] == "loaded":
        return UNKNOWN_DATA
    if not run["generated_name"]:
        return BASIC
    return f"{run['generated_name'].rpartition('-')[2].upper()} Generated Data"


def load_runs(database: Database, sql: str, params: dict[str, Any]) -> list[Run]:
    """Return a query's rows of ``finished_evaluations`` or ``like_runs`` with metrics and flags.

    ``metrics`` is a dict of ``Metric``; ``flags`` a list of dicts with ``name`` and ``detail``.
    """
    runs = records(database, WITH_METRICS.format(sql=sql), params)
    # A single evaluation is a curve of one point, which can be flagged only at a large radius.
    flagged = [
        run["run_id"]
        for run in runs
        if run["flags"] not in (None, "[]")
        or (run["attacks"] and (run["evaluations"] > 1 or run["eps"] >= grey_eps("Linf", 1)))
    ]
    flags = flags_of(database, flagged) if flagged else {}
    for run in runs:
        run["metrics"] = {name: Metric(*values) for name, *values in run["metrics"] or ()}
        run["flags"] = flags.get((run["run_id"], run["evaluation_id"]), [])
    return list(runs)


def _grouped(runs: Sequence[Run]) -> list[RunGroup]:
    groups: dict[tuple[str, bool], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["seed_group"], run["partial"]].append(run)
    names = _names([group[0] for group in groups.values()])
    return [
        RunGroup(tuple(group), name) for name, group in zip(names, groups.values(), strict=True)
    ]


def _names(firsts: Sequence[Run]) -> list[str]:
    """Return the shortest names that distinguish the groups from each other."""
    names = [_title(run) for run in firsts]
    for details in (_different_settings, _ends_of_ids):
        alike: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for number, (name, run) in enumerate(zip(names, firsts, strict=True)):
            alike[name, run["arch"], run["teacher"]].append(number)
        for numbers in alike.values():
            if len(numbers) > 1:
                texts = details([firsts[number] for number in numbers])
                for number, text in zip(numbers, texts, strict=True):
                    names[number] += f", {text}" if text else ""
    return names


def _title(run: Run) -> str:
    """Return a run's name in tables; a loaded file is named without its folders."""
    title = one_line(str(run["title"]))
    if run["kind"] == "loaded" and ("/" in title or "\\" in title):
        title = re.split(r"[/\\]", title.rstrip("/\\"))[-1]
    title = title or str(run["run_id"])
    title = title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1]}\u2026"
    return title + _limit_text(run) + (", best on test" if run["selection"] == BEST_ON_TEST else "")


def _limit_text(run: Run) -> str:
    images = training_images(run)
    return f", {images:,} training images" if images is not None else ""


def _different_settings(runs: Sequence[Run]) -> list[str]:
    """Return each run's recipe and recipe changes, without those that all the runs share."""
    settings = [_settings(run) for run in runs]
    shared = set(settings[0]).intersection(*settings)
    return [", ".join(each for each in own if each not in shared) for own in settings]


def _settings(run: Run) -> list[str]:
    changes = json.loads(run["recipe_changes"] or "{}")
    # Architectures have their own column; ``teacher.weights`` is shown as ``teacher``.
    changed = [
        f"{path.removesuffix('.weights').rpartition('.')[2]}={value}"
        for path, value in changes.items()
        if not path.endswith("arch")
    ]
    return ([run["recipe"]] if run["recipe"] not in (None, run["dataset"]) else []) + changed


def _ends_of_ids(runs: Sequence[Run]) -> list[str]:
    return [run["run_id"][-4:] for run in runs]
