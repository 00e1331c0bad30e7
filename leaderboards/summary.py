"""The table at the end of a run: the run among all others of the same protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from harness.errors import UserError
from leaderboards.like_runs import entries_of, like_runs
from leaderboards.printed import printed_entries
from leaderboards.protocols import attacks_of, is_papers, protocol_facts
from leaderboards.ranking import Entry, Score, ranked
from leaderboards.render.summary import print_entries, table_of


@dataclass(frozen=True)
class RunSummary:
    """A run among all others of its protocol.

    Attributes:
        protocol: dataset, norm, eps, attacks, attack_version, n, index_sha256, precision, partial.
        stages: metrics shown before the ranking one.
        metric: the metric that ranks: what the last attack left, or clean accuracy.
        entries: the rows, best first; a partial one is in no ranking.
    """

    protocol: Mapping[str, Any]
    stages: tuple[str, ...]
    metric: str
    entries: tuple[Entry, ...]

    @property
    def facts(self) -> list[str]:
        """The protocol in a few words each, the data set first."""
        return protocol_facts(self.protocol, self.protocol["attacks"])

    @property
    def title(self) -> str:
        """The protocol in one line."""
        return " | ".join(self.facts)

    @property
    def table(self) -> pd.DataFrame:
        """The formatted cells, one row an entry; accuracies in percent."""
        return table_of(self.entries, self.stages, self.metric)

    def render(self, console: Console) -> None:
        """Print title, table and legend; what the width cannot hold is left out and named."""
        print_entries(self.facts, self.entries, self.table, self.metric, console)

    def to_json(self) -> dict[str, Any]:
        """Title, protocol and rows, accuracies as fractions; ready for ``json.dumps``."""
        return {
            "title": self.title,
            "protocol": dict(self.protocol),
            "ranked_by": self.metric,
            "rows": [
                {
                    "rank": entry.rank or None,
                    "own": entry.own,
                    "method": entry.method,
                    "arch": entry.arch,
                    "badge": entry.badge,
                    "source": entry.source or None,
                    "seeds": entry.seeds,
                    "n": entry.n,
                    "partial": entry.partial,
                    "run_ids": list(entry.run_ids),
                    "flags": list(entry.flags),
                    "scores": {name: vars(score) for name, score in entry.scores.items()},
                }
                for entry in self.entries
            ],
        }


def run_summary(results_root: Path, run_id: str, evaluation_id: str | None = None) -> RunSummary:
    """The table of a run.

    Its rows are the runs of the same scale that were evaluated on the same images by the same
    protocol; runs that differ in nothing but the seed share a row. Partial runs are shown only to a
    partial run. Where the protocol is the paper's, printed rows of the same network stand beside.
    Of its Tables 6, 8 and 9, which vary the parameters of one row of Table 2, none does.

    Args:
        results_root: the results folder.
        run_id: the run's whole name.
        evaluation_id: the evaluation that the table is about; the newest finished one if None.

    Raises:
        UserError: the database has no finished evaluation of that run, or cannot be read.
    """
    runs = like_runs(results_root, run_id, evaluation_id)
    own = next((run for run in runs if run["run_id"] == run_id), None)
    if own is None or evaluation_id not in (None, own["evaluation_id"]):
        what = f"finished evaluation {evaluation_id or ''}".rstrip()
        raise UserError(
            f"the results database has no {what} of run {run_id}: finish the run by repeating its "
            "command, or rebuild the database"
        )
    attacks = attacks_of(own)
    metric = _ranking_metric(attacks, own["scores"])
    stages = ("clean", *attacks[:-1]) if attacks else ()
    entries = entries_of(runs, run_id)
    if is_papers(own, attacks):
        entries += printed_entries(
            own["dataset"], own["arch"], own["teacher"], metric=metric, n=int(own["n"])
        )
    names = ("dataset", "norm", "eps", "attack_version", "n", "index_sha256", "precision")
    protocol = {name: own[name] for name in names} | {"attacks": attacks, "partial": own["partial"]}
    return RunSummary(protocol, stages, metric, tuple(ranked(entries, metric)))


def _ranking_metric(attacks: Sequence[str], scores: Mapping[str, Score]) -> str:
    if not attacks:
        return "clean"
    return "aa" if "aa" in scores else attacks[-1]
