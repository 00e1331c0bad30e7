"""Accuracy on the corrupted test images of CIFAR-10-C and CIFAR-100-C; resumable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.config import fingerprint
from harness.data.base import check_limit
from harness.data.cifar import CORRUPTIONS, SEVERITIES, CorruptedImages
from harness.evaluation.analysis.statistics import accuracy
from harness.evaluation.clean import BATCH, count_correct
from harness.evaluation.guards import ensure_unchanged, untouched
from harness.evaluation.speed.precision import pinned
from harness.progress import ProgressFn, no_progress
from harness.store.files import read_json, write_json_atomic
from harness.store.rundir import RunDirectory

# The name of the published mean in the database's ``reported`` table.
METRIC = "corruptions"
PARTIAL = f"{METRIC}-partial"


@dataclass(frozen=True)
class CorruptionResult:
    """Accuracies on corrupted images.

    Attributes:
        protocol: the dataset, the corruptions, the severities, the number ``n`` of images at each,
            hashes of the data and the model, and whether the result is ``partial``.
        correct: corruption to the number of images classified correctly at each severity.
    """

    protocol: dict[str, Any]
    correct: dict[str, list[int]]

    @property
    def name(self) -> str:
        """The name of its mean, and of its protocol in the run's record."""
        return PARTIAL if self.protocol["partial"] else METRIC

    def mean(self) -> float:
        """Accuracy averaged over corruptions and severities, as RobustBench reports it."""
        return float(np.mean(list(self.correct.values()))) / int(self.protocol["n"])

    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics as the database stores them; the names of a partial result say so.

        Only a single corruption at a single severity has an interval: the parts of a mean come from
        the same test images and are not independent.
        """
        n, name = self.protocol["n"], self.name
        metrics = {name: {"value": self.mean(), "n": n}}
        for corruption, counts in self.correct.items():
            metrics[f"{name}/{corruption}"] = {"value": float(np.mean(counts)) / n, "n": n}
            for severity, count in zip(self.protocol["severities"], counts, strict=True):
                metrics[f"{name}/{corruption}/{severity}"] = accuracy(count, n)
        return metrics


def evaluate_corrupted(
    model: nn.Module,
    images: CorruptedImages,
    run: RunDirectory,
    *,
    severities: tuple[int, ...] = SEVERITIES,
    limit: int | None = None,
    device: torch.device,
    progress: ProgressFn = no_progress,
) -> CorruptionResult:
    """Compute a model's accuracy at each corruption and severity, and store it in the run.

    Each count is stored as soon as it is known, so a repeated call continues an interrupted one.

    Args:
        model: maps images [B, 3, 32, 32] in [0, 1] to logits [B, C].
        images: the corrupted images.
        run: the model's run; its record gets the metrics and their protocol in place of those of
            an earlier result, partial or not as this one.
        severities: a subset of 1 to 5.
        limit: use only this many images of each severity, the first ones; the result is partial.
        device: where to compute.
        progress: called with the finished share in [0, 1] and the current corruption.

    Raises:
        UserError: ``limit`` is larger than the number of images.
    """
    check_limit("--eval-limit", limit, images)
    n = len(images) if limit is None else limit
    everything = tuple(images.arrays) == CORRUPTIONS and severities == SEVERITIES
    with untouched(model.to(device)) as model_sha256:
        protocol = {
            "dataset": images.name,
            "corruptions": list(images.arrays),
            "severities": list(severities),
            "n": n,
            "data_sha256": images.sha256(severities, n),
            "model_sha256": model_sha256,
            "partial": not (everything and images.complete and n == len(images)),
        }
        path = run.path / f"corruptions-{fingerprint(protocol)}.json"
        done: dict[str, int] = read_json(path)["correct"] if path.exists() else {}
        parts = [(name, severity) for name in images.arrays for severity in severities]
        for number, (name, severity) in enumerate(parts):
            key = f"{name}/{severity}"
            if key not in done:
                progress(number / len(parts), key)
                rows = [slice(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]
                batches = ((images.batch(name, severity, r), images.labels[r]) for r in rows)
                with pinned("strict"):
                    done[key] = count_correct(model, batches, device)
                ensure_unchanged(model, model_sha256)
                write_json_atomic({"protocol": protocol, "correct": done}, path)
    progress(1.0, "")
    counts = {
        name: [done[f"{name}/{severity}"] for severity in severities] for name in images.arrays
    }
    result = CorruptionResult(protocol, counts)
    _store(result, run)
    return result


def _store(result: CorruptionResult, run: RunDirectory) -> None:
    """Replace the run's earlier result of the same name, whose parts differ from the new mean's."""
    record = run.record
    stored, before = record.get("metrics") or {}, record.get(METRIC) or {}
    metrics = {name: v for name, v in stored.items() if name.partition("/")[0] != result.name}
    # Earlier releases kept the protocol of a partial result under the other name.
    moved = {METRIC: None, PARTIAL: record.get(PARTIAL) or before} if before.get("partial") else {}
    protocols = moved | {result.name: result.protocol}
    run.update(metrics=metrics | result.metrics(), **protocols)
