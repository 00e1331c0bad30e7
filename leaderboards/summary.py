"""The ranking shown at the end of a run: the run among all others with the same protocol."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.errors import UserError
from leaderboards.printed import printed_rows
from leaderboards.protocols import (
    TIMES,
    attacks_of,
    is_papers_protocol,
    metric_title,
    protocol_facts,
    ranking_metric,
)
from leaderboards.ranking import rank_rows
from leaderboards.render.terminal import print_ranking
from leaderboards.results import RunGroup, like_groups
from leaderboards.spec import BASIC, BEST_ON_TEST, UNKNOWN_DATA, arch_text
from leaderboards.table import EPOCH, OURS_ROW, Cell, Column, Number, Row, Table, with_keys

LABELS = ("#", "Method", "Architecture", "Seeds", "n", "Src")
DATA = "Training data"


@dataclass(frozen=True)
class RunSummary:
    """A run among all others with its protocol.

    Attributes:
        protocol: dataset, norm, eps, attacks, attack_version, n, index_sha256, precision, partial.
        table: the ranking, best first; ``Table.ranked_by`` is the metric that ranks, clean accuracy
            or the accuracy after the last attack. The labels are ``LABELS``; ``DATA`` follows
            the architecture unless it is Basic or unknown for all rows.
        groups: the runs of the rows measured here, including metrics that the table leaves out.
    """

    protocol: Mapping[str, Any]
    table: Table
    groups: Sequence[RunGroup]

    @property
    def facts(self) -> list[str]:
        """The protocol as short phrases, the dataset first."""
        return protocol_facts(self.protocol, self.protocol["attacks"])

    @property
    def title(self) -> str:
        """The protocol in one line."""
        return self.table.title

    def render(self, console: Console) -> None:
        """Print title, ranking and legend; columns that do not fit are left out and named."""
        print_ranking(self.table, self.facts, console)

    def to_json(self) -> dict[str, Any]:
        """Return title, protocol and rows for ``json.dumps``, with accuracies as fractions."""
        return {
            "title": self.title,
            "protocol": dict(self.protocol),
            "ranked_by": self.table.ranked_by,
            "rows": [
                {
                    "rank": row.rank or None,
                    "own": row.own,
                    "method": row.labels[1],
                    "arch": row.labels[2],
                    "augmentation": row.facts["augmentation"],
                    "selection": row.facts["selection"] or None,
                    "badge": row.facts["source"],
                    "source": f"Table {row.facts['table']}" if "table" in row.facts else None,
                    "seeds": _shared(row, "seeds"),
                    "n": _shared(row, "n"),
                    "partial": row.partial,
                    "run_ids": list(row.run_ids),
                    "flags": list(row.flags),
                    "scores": self._scores(row),
                }
                for row in self.table.rows
            ],
        }

    def _scores(self, row: Row) -> dict[str, dict[str, Any]]:
        numbers = {metric: row.number(metric) for metric in row.cells}
        for group in self.groups:
            if group.run_ids == row.run_ids:
                numbers = {metric: group.number(metric) for metric in group.metrics}
        return {metric: _score(metric, number) for metric, number in numbers.items() if number}


def run_summary(results_root: Path, run_id: str, evaluation_id: str | None = None) -> RunSummary:
    """Return the ranking that a run is in.

    Its rows are the runs with the same ``like_key`` in the database view ``like_runs``; runs that
    differ only in the seed share a row. Partial runs are included only for a partial run. If the
    protocol is the paper's, the printed rows of the same architecture and training data are added,
    for a loaded model those trained on the training set alone.
    Each kind of training data is ranked on its own, that of the run first, and so are printed rows
    of which only one kind, they or the runs, had its epoch selected on test images.

    The ranking is for the given evaluation, or the newest finished one.

    Raises:
        UserError: the database has no finished evaluation of that run, or cannot be read.
    """
    groups = like_groups(results_root, run_id, evaluation_id)
    if not groups:
        what = f"finished evaluation {evaluation_id or ''}".rstrip()
        raise UserError(
            f"the results database has no {what} of run {run_id}: finish the run by repeating its "
            "command, or rebuild the database"
        )
    group = next(g for g in groups for run in g.runs if run["run_id"] == run_id)
    own = next(run for run in group.runs if run["run_id"] == run_id)
    attacks = attacks_of(own)
    metric = ranking_metric(attacks, own["metrics"])
    stages = ("clean", *attacks[:-1]) if attacks else ()
    rows = [_row(g, (*stages, metric, "sec_per_iter"), metric, own=g is group) for g in groups]
    data = group.facts["augmentation"]
    if is_papers_protocol(own):
        network = own["dataset"], own["arch"], own["teacher"] or ""
        printed = BASIC if data == UNKNOWN_DATA else data
        rows += printed_rows(*network, metric=metric, augmentation=printed)
    rows.sort(key=lambda row: row.facts["augmentation"] != data)
    names = ("dataset", "norm", "eps", "attack_version", "n", "index_sha256", "precision")
    protocol = {name: own[name] for name in names} | {"attacks": attacks, "partial": own["partial"]}
    table = ranking_table(" | ".join(protocol_facts(protocol, attacks)), rows, stages, metric)
    return RunSummary(protocol, table, groups)


def ranking_table(title: str, rows: Sequence[Row], stages: Sequence[str], metric: str) -> Table:
    """Return rows, whose labels are method and architecture, as a table ranked by ``metric``.

    ``title`` is what all rows share; ``stages`` are the metrics shown before ``metric``. There is a
    section for each kind of training data, and for epochs selected unlike those of our runs.
    """
    kinds = list(dict.fromkeys(row.facts["augmentation"] for row in rows))
    named = len(kinds) > 1 or kinds[0] not in (BASIC, UNKNOWN_DATA)
    on_test = any(row.own and row.facts["selection"] == BEST_ON_TEST for row in rows)
    sections: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: kinds.index(row.facts["augmentation"])):
        titles = [f"{DATA}: {row.facts['augmentation']}"] * (len(kinds) > 1)
        chosen = row.facts["selection"]
        if chosen and (chosen == BEST_ON_TEST) != on_test:
            titles.append(EPOCH + chosen)
        sections["; ".join(titles)].append(row)
    ranked: list[Row] = []
    for section, members in sections.items():
        ranked += rank_rows([dataclasses.replace(row, group=section) for row in members], metric)
    ranking = [row.number(metric) for row in rows]
    deviates = any(number is not None and number.std is not None for number in ranking)
    head = metric_title(metric) + ("" if deviates else " [95%]")
    return Table(
        title=title,
        labels=(*LABELS[:3], *[DATA] * named, *LABELS[3:]),
        columns=(
            *(Column(stage, (metric_title(stage),), stage) for stage in stages),
            Column(metric, (head,), metric),
            Column(
                "sec_per_iter", ("s/iter",), "sec_per_iter", lower_is_better=True, decimals=None
            ),
        ),
        rows=tuple(_labelled(row, named=named) for row in with_keys(ranked)),
        method_label=1,
        last_labels=2,
        ranked_by=metric,
    )


def _row(group: RunGroup, metrics: Sequence[str], ranking: str, *, own: bool) -> Row:
    """Return a group's row; only the number that ranks it keeps the group's flags."""
    cells = {}
    for metric in metrics:
        number = group.number(metric)
        if number is not None:
            if number.flags and metric != ranking:
                number = dataclasses.replace(number, flags=())
            cells[metric] = Cell(ours=number)
    labels = (group.name, arch_text(group["arch"] or "", group["teacher"]))
    return Row(OURS_ROW, labels, cells=cells, facts=group.facts, partial=group["partial"], own=own)


def _labelled(row: Row, *, named: bool) -> Row:
    """Return a row with the label texts of ``LABELS``, and of ``DATA`` if it is ``named``."""
    method, arch = row.labels
    source = row.facts["source"] + (f" T{row.facts['table']}" if "table" in row.facts else "")
    seeds, n = _shared(row, "seeds"), _shared(row, "n")
    data = [row.facts["augmentation"]] * named
    labels = (row.rank, method, arch, *data, str(seeds or ""), str(n or ""), source)
    return dataclasses.replace(row, labels=labels)


def _shared(row: Row, name: str) -> int | None:
    """Return a fact that is the same in all numbers of a row that have it."""
    values = (getattr(number, name) for number in row.numbers)
    return next((value for value in values if value is not None), None)


def _score(metric: str, number: Number) -> dict[str, Any]:
    """Return a number for JSON; ``mean_low`` and ``mean_high`` are the interval of a mean."""
    unit = 1 if metric in TIMES else 100

    def fraction(value: float | None) -> float | None:
        return None if value is None else value / unit

    low, high = number.interval or (None, None)
    of_mean = (None, None) if number.interval else (number.low, number.high)
    return {
        "value": number.value / unit,
        "low": fraction(low),
        "high": fraction(high),
        "std": fraction(number.std),
        "disputed": bool(number.disputed),
        "mean_low": fraction(of_mean[0]),
        "mean_high": fraction(of_mean[1]),
    }
