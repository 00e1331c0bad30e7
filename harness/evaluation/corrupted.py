"""Accuracy on commonly corrupted images, one finished part after the other, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.config import fingerprint
from harness.data.base import ImageSource
from harness.errors import UserError
from harness.evaluation.analysis.statistics import accuracy
from harness.evaluation.attack.job import ProgressFn
from harness.evaluation.attack.judge import predict
from harness.evaluation.corruptions import CORRUPTIONS, SEVERITIES, VERSION, corrupt
from harness.evaluation.guards import ensure_unchanged, unit_images, untouched
from harness.evaluation.speed.precision import pinned
from harness.store.files import read_json, write_json_atomic
from harness.store.rundir import RunDirectory

BATCH = 250
PREFIX = "corruption"


@dataclass(frozen=True)
class Corrupted:
    """What was found.

    Attributes:
        protocol: what the numbers must be quoted with.
        correct: corruption to how many images are right at each severity, in its order.
    """

    protocol: dict[str, Any]
    correct: dict[str, list[int]]

    @property
    def whole(self) -> bool:
        """Whether every corruption was measured at every severity on a whole test set."""
        told = self.protocol
        every = tuple(told["corruptions"]) == tuple(CORRUPTIONS)
        return every and tuple(told["severities"]) == SEVERITIES and not told["partial"]

    def mean(self) -> float:
        """Accuracy over all corruptions and severities, each counting alike."""
        n = self.protocol["n"]
        return float(np.mean([count / n for counts in self.correct.values() for count in counts]))

    def metrics(self) -> dict[str, dict[str, float]]:
        """By name as the store has them; what is not ``whole`` is so named.

        The mean has no interval: its parts are of the same images, and are not independent.
        """
        n, prefix = self.protocol["n"], PREFIX if self.whole else f"{PREFIX}-partial"
        found = {
            f"{prefix}/{name}/{severity}": accuracy(count, n).as_dict()
            for name, counts in self.correct.items()
            for severity, count in zip(self.protocol["severities"], counts, strict=True)
        }
        for name, counts in self.correct.items():
            found[f"{prefix}/{name}"] = {"value": float(np.mean(counts)) / n, "n": n}
        return found | {f"{prefix}/mean": {"value": self.mean(), "n": n}}


def evaluate_corrupted(
    model: nn.Module,
    images: ImageSource,
    run: RunDirectory,
    *,
    names: Sequence[str],
    severities: Sequence[int] = SEVERITIES,
    limit: int | None = None,
    seed: int = 0,
    device: torch.device,
    say: ProgressFn = lambda share, note: None,
) -> Corrupted:
    """Accuracy of a model on corrupted images, stored in the run's directory and its metrics.

    Each image's random numbers come from the seed, the corruption, its severity and the image's
    row, so that no result depends on batches, order or limit. Parts that an earlier call finished
    are kept.

    Args:
        model: maps images [B, 3, 32, 32] in [0, 1] to logits [B, C].
        images: the test split.
        run: whose model it is.
        names: corruptions.
        severities: some of 1 to 5.
        limit: use the first so many images; the result is partial.
        seed: of the corruptions.
        device: where to compute.
        say: is told the share of the work that is done, and what is being done.

    Raises:
        UserError: there are not so many images, or they are not colour images of 32 pixels.
    """
    if limit is not None and limit > len(images):
        raise UserError(
            f"{limit} images are asked for, but {images.info.name} has {len(images)} test images: "
            f"ask for at most {len(images)}"
        )
    positions = torch.arange(len(images))[:limit]
    with untouched(model.to(device)) as model_sha256:
        told = protocol(images, names, severities, limit, seed, model_sha256)
        path = run.path / f"corruptions-{fingerprint(told)}.json"
        done: dict[str, int] = read_json(path)["correct"] if path.exists() else {}
        parts = [(name, severity) for name in names for severity in severities]
        for number, (name, severity) in enumerate(parts):
            key = f"{name}/{severity}"
            if key not in done:
                say(number / len(parts), key)
                done[key] = correct_images(model, images, positions, name, severity, seed, device)
                ensure_unchanged(model, model_sha256)
                write_part(path, told, done)
    say(1.0, "")
    counts = {name: [done[f"{name}/{severity}"] for severity in severities] for name in names}
    found = Corrupted(told, counts)
    metrics = (run.record.get("metrics") or {}) | found.metrics()
    run.update(metrics=metrics, corruptions=told)
    return found


def protocol(
    images: ImageSource,
    names: Sequence[str],
    severities: Sequence[int],
    limit: int | None,
    seed: int,
    model_sha256: str,
) -> dict[str, Any]:
    """What the numbers must be quoted with."""
    rows = images.rows[:limit]
    return {
        "corruptions": list(names),
        "severities": list(severities),
        "version": VERSION,
        "seed": seed,
        "n": len(rows),
        "index_sha256": hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest(),
        "data_sha256": images.sha256,
        "model_sha256": model_sha256,
        "partial": limit is not None or not images.complete,
    }


def write_part(path: Path, told: dict[str, Any], done: dict[str, int]) -> None:
    """The finished parts, in one file that is replaced as a whole."""
    write_json_atomic({"protocol": told, "correct": done}, path)


def correct_images(
    model: nn.Module,
    images: ImageSource,
    positions: Tensor,
    name: str,
    severity: int,
    seed: int,
    device: torch.device,
) -> int:
    """How many of the corrupted images at those positions the model classifies correctly."""
    correct = 0
    with torch.no_grad(), pinned("strict"):
        for part in positions.split(BATCH):
            x = corrupted_batch(images, part, name, severity, seed).to(device)
            correct += int((predict(model(x).float()) == images.labels[part].to(device)).sum())
    return correct


def corrupted_batch(
    images: ImageSource, positions: Tensor, name: str, severity: int, seed: int
) -> Tensor:
    """Corrupted images [B, 3, 32, 32], float32 in [0, 1], on the CPU."""
    clean = (255 * unit_images(images, positions)).round().byte().permute(0, 2, 3, 1).numpy()
    rows: Iterator[int] = iter(images.rows[positions].tolist())
    found = np.stack([corrupt(image, name, severity, seed, next(rows)) for image in clean])
    return torch.from_numpy(found).permute(0, 3, 1, 2).float().contiguous() / 255
