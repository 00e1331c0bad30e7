"""Everything measured here, gathered over seeds, for the tables to choose from."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.store.database import Database
from leaderboards.like_runs import Run, flags_of, names_of, over_seeds, records
from leaderboards.names import DATASETS, architecture_names, dataset_name
from leaderboards.protocols import attacks_of, is_papers_attack, protocol_facts
from leaderboards.ranking import Score
from leaderboards.table import REPRODUCED, SMALL, Number

# The newest finished evaluation of each run by each protocol. A loaded model's method is its title.
MEASURED = """
SELECT r.run_id, r.seed_group, r.method, r.kind,
       coalesce(r.method_title, r.method, r.source->>'source') AS title,
       r.task, r.dataset, r.arch, r.teacher, r.recipe, r.recipe_changes, r.train_limit, r.seed,
       r.selection, r.scale, r.status, r.config->'params' AS params,
       r.config->'data'->>'generated_name' AS generated,
       coalesce(r.partial, false) OR coalesce(e.partial, false) AS partial,
       e.evaluation_id, e.norm, e.eps, e.attacks, e.attack_version, e.n, e.index_sha256,
       e.data_sha256, e.precision, e.flags, CAST(e.finished_at AS VARCHAR) AS finished_at
FROM runs r JOIN evaluations e USING (run_id)
WHERE e.status = 'success' AND r.status = 'success'
QUALIFY row_number() OVER (
    PARTITION BY r.run_id, e.norm, e.eps, e.attacks, e.attack_version, e.n, e.index_sha256,
                 e.data_sha256, e.precision
    ORDER BY e.finished_at DESC, e.evaluation_id) = 1
ORDER BY r.run_id, e.evaluation_id
"""

METRICS = (
    "SELECT run_id, evaluation_id, name, value, low, high FROM metrics WHERE value IS NOT NULL"
)

LIKE = ("norm", "eps", "attacks", "attack_version", "n", "index_sha256", "data_sha256", "precision")


@dataclass(frozen=True)
class Measured:
    """Runs that differ in nothing but the seed, measured by one protocol.

    Attributes:
        runs: the runs, each with its evaluation's facts.
        scores: metric to mean over seeds, as ``leaderboards.like_runs.over_seeds`` gives it.
        name: tells it from others of like title.
    """

    runs: tuple[Run, ...]
    scores: Mapping[str, Score]
    name: str

    def __getitem__(self, fact: str) -> Any:
        """A fact that all its runs share."""
        return self.runs[0][fact]

    @property
    def badge(self) -> str:
        """R for the paper's scale, S for less."""
        return REPRODUCED if self["scale"] == "paper" and not self["partial"] else SMALL

    @property
    def seed_key(self) -> tuple[Any, ...]:
        """Equal for the same training measured by another protocol."""
        return (self["seed_group"] or self["run_id"], self["partial"])

    @property
    def protocol_key(self) -> tuple[Any, ...]:
        """Equal where numbers may be ranked together: data, protocol and scale."""
        return (self.badge, self["dataset"], self["partial"], *(self[name] for name in LIKE))

    @property
    def facts(self) -> dict[str, str]:
        """For filters and for finding its like."""
        return {
            "method": self["method"] or "",
            "arch": self["arch"] or "",
            "teacher": self["teacher"] or "",
            "dataset": self["dataset"] or "",
            "augmentation": augmentation_of(self["generated"]),
            "selection": self["selection"] or "",
            "scale": "paper" if self.badge == REPRODUCED else "small",
            "source": self.badge,
        }

    @property
    def protocol(self) -> str:
        """Data set, threat model, attack and number of images."""
        return ", ".join(protocol_facts(self.runs[0], attacks_of(self.runs[0])))

    @property
    def note(self) -> str:
        """How it was trained and measured, in one line."""
        changes = json.loads(self["recipe_changes"] or "{}")
        recipe = f"recipe {self['recipe']}" if self["recipe"] else "loaded model"
        changed = "".join(f", {path}={value}" for path, value in changes.items())
        selection = f"epoch {self['selection']}" if self["selection"] else ""
        return "; ".join(filter(None, (recipe + changed, selection, self.protocol)))

    def fits(
        self, *, method: str, dataset: str, arch: str, teacher: str, augmentation: str
    ) -> bool:
        """Whether it is of a printed row's method, data and networks, all as printed."""
        return (
            self.badge == REPRODUCED
            and self["method"] == method
            and self["dataset"] == dataset_name(dataset)
            and self["arch"] in architecture_names(arch)
            and _network(self["teacher"]) in (architecture_names(teacher) if teacher else ("",))
            and augmentation in ("", self.facts["augmentation"])
        )

    def has_params(self, params: Mapping[str, float]) -> bool:
        """Whether it was trained with these parameters."""
        own = json.loads(self["params"] or "{}")
        return all(own.get(name) == value for name, value in params.items())

    def accepts(self, datasets: Sequence[str], small: bool) -> bool:
        """Whether a table that takes ``datasets``, and perhaps others, takes it."""
        other = self["dataset"] not in DATASETS.values()
        return self["dataset"] in datasets or (small and other)

    @property
    def is_attacked_as_papers(self) -> bool:
        """Whether AutoAttack of the paper's radius was run on it, whole and in float32."""
        run = self.runs[0]
        return run["precision"] == "float32" and is_papers_attack(run, attacks_of(run))

    def number(self, metric: str) -> Number | None:
        """Its number as tables show it; None if it has no such metric."""
        score = self.scores.get(metric)
        if score is None:
            return None
        unit = 1.0 if metric == "sec_per_iter" else 100.0

        def scaled(value: float | None) -> float | None:
            return None if value is None else value * unit

        return Number(
            score.value * unit,
            self.badge,
            low=scaled(score.low) if unit > 1 else None,
            high=scaled(score.high) if unit > 1 else None,
            std=scaled(score.std),
            n=int(self["n"]) if unit > 1 else None,
            seeds=len(self.runs),
            note=self.note,
            run_ids=tuple(run["run_id"] for run in self.runs),
            flags=flags_of(self.runs),
        )


def measured(results: Path) -> list[Measured]:
    """All that was measured by finished runs.

    Raises:
        UserError: the database is missing or cannot be read.
    """
    database = Database(results)
    runs = records(database, MEASURED, {})
    scores: dict[tuple[str, str | None], dict[str, Score]] = defaultdict(dict)
    frame = database.query(METRICS).astype(object)
    for run_id, evaluation, name, value, low, high in frame.where(frame.notna(), None).to_numpy():
        scores[run_id, evaluation][name] = Score(value, low, high)
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        own = scores[run["run_id"], None] | scores[run["run_id"], run["evaluation_id"]]
        key = (run["seed_group"] or run["run_id"], run["scale"], run["partial"])
        groups[(*key, *(run[name] for name in LIKE))].append({**run, "scores": own})
    # A name need only tell a group from those that may stand in one section with it.
    sections: dict[tuple[Any, ...], list[list[Run]]] = defaultdict(list)
    for key, group in groups.items():
        sections[key[1:]].append(group)
    return [
        Measured(tuple(group), over_seeds([run["scores"] for run in group]), name)
        for section in sections.values()
        for name, group in zip(names_of([own[0] for own in section]), section, strict=True)
    ]


def augmentation_of(generated: str | None) -> str:
    """The training data as the paper says it: ``ddpm-1m`` is 1M Generated Data."""
    if not generated:
        return "Basic"
    return f"{generated.rpartition('-')[2].upper()} Generated Data"


def _network(teacher: str | None) -> str:
    """The network of a teacher, whose source may stand before it."""
    return (teacher or "").rpartition(":")[2]
