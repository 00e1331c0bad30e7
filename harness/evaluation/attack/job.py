"""The chunks of one evaluation: which are missing, and how one is made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.config import EvalConfig
from harness.data.base import ImageSource
from harness.evaluation.attack.chunk import Attacker, Chunk, Outcome, ProgressFn
from harness.evaluation.attack.chunk_files import Expected, finished, write_chunk
from harness.evaluation.attack.images import LEVELS, on_grid
from harness.evaluation.attack.judge import predict
from harness.evaluation.attack.model import AttackModel, Judge
from harness.evaluation.attack.protocol import Threat, chunk_seed
from harness.evaluation.guards import ensure_unchanged, own_random_state, unit_images
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.plan import Plan, apply
from harness.evaluation.speed.precision import pinned
from harness.store.rundir import EvaluationDirectory


def chunk_count(config: EvalConfig, images: ImageSource) -> int:
    """The chunks of an evaluation."""
    count = len(images) if config.limit is None else config.limit
    return -(-count // config.chunk_size)


def worker_count(config: EvalConfig, images: ImageSource) -> int:
    """The processes that share an evaluation: as many as are asked for, but at most one a chunk.

    They do not depend on how many chunks are still missing: each process's threads follow from
    them, and the last bits of logits may follow from threads.
    """
    return min(config.workers, chunk_count(config, images))


@dataclass(frozen=True)
class Work:
    """All that a process needs to attack any chunk of an evaluation.

    Attributes:
        model: in eval mode.
        model_sha256: hash of its parameters and buffers.
        images: the test split.
        config: the protocol.
        threat: what the attacks may do.
        plan: how the attacked copy of the model is run.
        directory: where chunks belong.
    """

    model: nn.Module
    model_sha256: str
    images: ImageSource
    config: EvalConfig
    threat: Threat
    plan: Plan
    directory: EvaluationDirectory

    @property
    def chunks(self) -> int:
        """How many there are; they are numbered from 0."""
        return chunk_count(self.config, self.images)

    def missing(self) -> list[int]:
        """Chunks that are not on disk, whole and as asked for."""
        return [
            number
            for number in range(self.chunks)
            if not finished(self.directory.chunk_path(number), self.expected(number))
        ]

    def positions(self, number: int) -> torch.Tensor:
        """Where the images of a chunk stand in the split."""
        every = torch.arange(len(self.images))[: self.config.limit]
        part: torch.Tensor = every.split(self.config.chunk_size)[number]
        return part

    def expected(self, number: int) -> Expected:
        """What the file of a chunk must hold."""
        part = self.positions(number)
        return Expected(
            self.directory.evaluation_id,
            number,
            self.images.rows[part],
            self.images.labels[part],
            self.config.save_adversarial,
        )

    def attacker(self, device: torch.device) -> Attacker:
        """What attacks the chunks; the model is on the device."""
        config = self.config
        attacked = AttackModel(
            apply(self.model, self.plan) if config.accelerate else self.model,
            self.threat.num_classes,
            Batching(config.device_batch, self.plan.tile, self.plan.multiple),
            layout=self.plan.layout,
            autocast=torch.bfloat16 if config.precision == "bf16" else None,
        )
        return Attacker(
            attacked,
            AttackModel(self.model, self.threat.num_classes, Batching(limit=config.device_batch)),
            Judge(self.model, Batching(limit=config.device_batch)),
            self.threat,
            config.attacks,
            device,
            attacking=lambda: pinned("reference"),
            judging=lambda: pinned("strict"),
        )

    def attack(self, number: int, attacker: Attacker, say: ProgressFn) -> None:
        """Attack a chunk and write its file, unless the model is no longer what it was."""
        expected = self.expected(number)
        chunk = Chunk(
            number,
            chunk_seed(self.config.seed, number),
            expected.rows,
            expected.labels,
            unit_images(self.images, self.positions(number)),
        )
        began = time.perf_counter()
        with own_random_state(attacker.device):
            outcome = attacker.run(chunk, say)
        kept, rounding = self._kept(chunk, outcome, attacker)
        ensure_unchanged(self.model, self.model_sha256)
        facts = {
            "evaluation_id": expected.evaluation_id,
            "chunk": number,
            "seconds": time.perf_counter() - began,
            "acceleration": self.plan.as_dict(),
            **outcome.facts(),
            "adversarial": rounding,
        }
        write_chunk(self.directory.chunk_path(number), outcome.verdicts, facts, kept)

    def _kept(
        self, chunk: Chunk, outcome: Outcome, attacker: Attacker
    ) -> tuple[np.ndarray[Any, Any] | None, dict[str, Any] | None]:
        """The adversarial images to keep, if any, and what rounding did to them."""
        kind = self.config.save_adversarial
        if kind == "no":
            return None, None
        stages = outcome.verdicts["broken_by"].to_pylist()
        broken = torch.tensor([stage not in (None, "clean") for stage in stages])
        if kind == "float32":
            return outcome.adversarial.numpy(), _rounding(kind, broken, [])
        images = on_grid(outcome.adversarial, chunk.images, self.threat.norm, self.threat.eps)
        logits = attacker.judged((images.float() / LEVELS).to(attacker.device))
        harmless = (predict(logits).cpu() == chunk.labels) & broken
        return images.numpy(), _rounding(kind, broken, chunk.rows[harmless].tolist())


def _rounding(kind: str, broken: torch.Tensor, rows: list[int]) -> dict[str, Any]:
    return {"kept": kind, "broken": int(broken.sum()), "no_longer_broken": rows}
