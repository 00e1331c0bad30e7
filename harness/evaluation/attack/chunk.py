"""A chunk of the test set: its images, the stages' results, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from harness.evaluation.attack.judge import NO_PREDICTION, margin, predict
from harness.evaluation.attack.targeted import NO_TARGET
from harness.store.files import replacing
from harness.store.verdicts import VERDICT_SCHEMA, read_table, verdicts_digest

FACTS_KEY = b"chunk"


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of the evaluated set, without their pixels.

    Attributes:
        number: the chunk's number, from 0.
        seed: seed of its attacks.
        positions: positions of its images in the loaded split, int64 [N].
        rows: their rows in the test split, int64 [N].
        labels: int64 [N].
    """

    number: int
    seed: int
    positions: Tensor
    rows: Tensor
    labels: Tensor


@dataclass
class StageFacts:
    """Counts of one stage on a chunk.

    Attributes:
        attacked: images it was given, all still correctly classified.
        by_judge: images among them that the attacked network misclassifies before any attack; they
            were attacked through the original network instead.
        broken: images it broke.
        forward: images in forward passes.
        backward: images in backward passes.
        repeated: images passed forward again because their graph was not kept.
        seconds: wall-clock time.
        left_ball: returned images that were outside the ball or [0, 1], and were put back.
        not_finite: non-finite rows of logits during the attack.
        zero_gradient: attack runs that started at points with zero gradient.
    """

    attacked: int
    by_judge: int = 0
    broken: int = 0
    forward: int = 0
    backward: int = 0
    repeated: int = 0
    seconds: float = 0.0
    left_ball: int = 0
    not_finite: int = 0
    zero_gradient: int = 0

    def add(self, more: StageFacts) -> None:
        """Add the counts of attacking some of the images again through the original network."""
        self.by_judge += more.attacked
        for name in (
            "forward", "backward", "repeated", "seconds", "left_ball", "not_finite", "zero_gradient"
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(more, name))


@dataclass
class ChunkResult:
    """Verdicts on a chunk's images, created by the clean pass and updated by each stage.

    Tensors are on the device.

    Attributes:
        chunk: the images.
        adversarial: float32 [N, K, H, W], the clean image where no adversarial one was found.
        clean_pred: predicted class of the clean image [N].
        correct: bool [N], whether the image has not been broken so far.
        adv_pred: predicted class of ``adversarial`` [N].
        margin: margin of ``adversarial`` [N]; NaN where it is not finite.
        distance: norm of the perturbation [N], float64.
        target: target class [N] with which a stage broke the image, else ``NO_TARGET``.
        broken_by: ``clean``, the stage that broke the image, or None.
        stages: stage name to its facts; a stage that had nothing to attack is missing.
        out_of_memory: steps that ran out of memory and were repeated with half the images at once,
            in order: a stage, ``clean`` or ``judge``.
    """

    chunk: Chunk
    adversarial: Tensor
    clean_pred: Tensor
    correct: Tensor
    adv_pred: Tensor
    margin: Tensor
    distance: Tensor
    target: Tensor
    broken_by: list[str | None]
    stages: dict[str, StageFacts] = field(default_factory=dict)
    out_of_memory: list[str] = field(default_factory=list)

    @classmethod
    def after_clean_pass(cls, chunk: Chunk, images: Tensor, logits: Tensor) -> ChunkResult:
        """Create the result from clean images [N, K, H, W] and their logits [N, C]."""
        labels = chunk.labels.to(logits.device)
        clean_pred = predict(logits)
        correct = clean_pred == labels
        return cls(
            chunk=chunk,
            adversarial=images.clone(),
            clean_pred=clean_pred,
            correct=correct,
            adv_pred=clean_pred.clone(),
            margin=margin(logits, labels),
            distance=torch.zeros(len(labels), dtype=torch.float64, device=logits.device),
            target=torch.full_like(labels, NO_TARGET),
            broken_by=[None if c else "clean" for c in correct.tolist()],
        )

    def break_images(
        self,
        positions: Tensor,
        stage: str,
        found: Tensor,
        logits: Tensor,
        distance: Tensor,
        target: Tensor,
    ) -> None:
        """Record that a stage broke the images at positions [M].

        Args:
            positions: positions in the chunk.
            stage: name of the stage.
            found: the adversarial images [M, K, H, W].
            logits: their logits [M, C].
            distance: norm of their perturbations [M].
            target: target classes [M], or ``NO_TARGET``.
        """
        self.correct[positions] = False
        self.adversarial[positions] = found
        self.adv_pred[positions] = predict(logits)
        self.margin[positions] = margin(logits, self.chunk.labels.to(logits.device)[positions])
        self.distance[positions] = distance
        self.target[positions] = target
        for position in positions.tolist():
            self.broken_by[position] = stage

    def table(self) -> pa.Table:
        """Return one row per image, as stored; a missing target or NaN margin is null."""
        rows = {
            "index": self.chunk.rows.tolist(),
            "label": self.chunk.labels.tolist(),
            "clean_pred": self.clean_pred.tolist(),
            "broken_by": self.broken_by,
            "target": [None if t == NO_TARGET else t for t in self.target.tolist()],
            "adv_pred": self.adv_pred.tolist(),
            "distance": self.distance.tolist(),
            "margin": [None if m != m else m for m in self.margin.tolist()],
        }
        return pa.Table.from_pydict(rows, schema=VERDICT_SCHEMA)

    def facts(self) -> dict[str, Any]:
        """Return the facts stored with the verdicts, ready for JSON."""
        return {
            "stages": {name: asdict(facts) for name, facts in self.stages.items()},
            "clean_not_finite": int((self.clean_pred == NO_PREDICTION).sum()),
            "out_of_memory": self.out_of_memory,
        }


def adversarial_path(verdicts: Path) -> Path:
    """Return the path of a chunk's adversarial images, from that of its verdicts."""
    return verdicts.with_suffix(".adversarial.npy")


def write_chunk(
    path: Path, verdicts: pa.Table, facts: dict[str, Any], adversarial: np.ndarray[Any, Any] | None
) -> None:
    """Write a chunk; the verdicts are written last, and mark the chunk as complete.

    Args:
        path: path of the verdicts.
        verdicts: table with ``VERDICT_SCHEMA``.
        facts: ready for JSON; stored in the file of verdicts.
        adversarial: images to save, if any.
    """
    if adversarial is not None:
        with replacing(adversarial_path(path)) as handle:
            np.save(handle, adversarial)
    facts = facts | {"digest": verdicts_digest(verdicts)}
    table = verdicts.replace_schema_metadata({FACTS_KEY: json.dumps(facts)})
    with replacing(path) as handle:
        pq.write_table(table, handle, write_page_checksum=True)


def read_chunk(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read a chunk's verdicts and facts; raise an error if the file is damaged or not a chunk."""
    verdicts, metadata = read_table(path)
    facts = json.loads(metadata[FACTS_KEY])
    # Chunks of earlier releases have no digest.
    if facts.pop("digest", None) not in (None, verdicts_digest(verdicts)):
        raise ValueError(f"the verdicts in {path} are not those that were written")
    return verdicts, facts


def is_finished(path: Path, chunk: Chunk, evaluation_id: str, save_adversarial: str) -> bool:
    """Whether a chunk's file exists, is undamaged and is of this evaluation; else remove it.

    Args:
        path: path of the verdicts.
        chunk: the images that the file must hold.
        evaluation_id: id of the evaluation.
        save_adversarial: ``no``, or the type of the adversarial images that must exist as well.
    """
    if not path.exists():
        return False
    try:
        verdicts, facts = read_chunk(path)
        valid = (
            facts["evaluation_id"] == evaluation_id
            and facts["chunk"] == chunk.number
            and verdicts["index"].to_pylist() == chunk.rows.tolist()
            and verdicts["label"].to_pylist() == chunk.labels.tolist()
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        path.unlink()
        return False
    images = adversarial_path(path)
    return save_adversarial == "no" or _has_images(images, len(chunk.rows), save_adversarial)


def _has_images(path: Path, count: int, kind: str) -> bool:
    if not path.exists():
        return False
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        return len(images) == count and images.dtype == np.dtype(kind)
    except Exception:
        # NumPy's error depends on where a file is damaged: EOFError, SyntaxError, TokenError,
        # BadZipFile and more.
        path.unlink()
        return False
