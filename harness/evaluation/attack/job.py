"""The work of one evaluation: its chunks, which of them are missing, and how to attack one."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from harness.config import AttackName, EvalProtocol, EvalSettings
from harness.data.base import ImageSource
from harness.errors import UserError
from harness.evaluation.attack.chunk import (
    Chunk,
    ChunkResult,
    StageFacts,
    is_finished,
    write_chunk,
)
from harness.evaluation.attack.cost import Forecast
from harness.evaluation.attack.images import LEVELS, on_grid
from harness.evaluation.attack.judge import clip_to_ball, perturbation_norm, predict
from harness.evaluation.attack.model import AttackModel, within_memory
from harness.evaluation.attack.protocol import chunk_seed
from harness.evaluation.attack.stages import (
    aimed_targets,
    make_attack,
    passes,
    zero_gradient_starts,
)
from harness.evaluation.guards import ensure_unchanged, own_random_state, unit_images
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.graphs import RecordedNetwork
from harness.evaluation.speed.plan import Plan, apply
from harness.evaluation.speed.precision import pinned
from harness.progress import ProgressFn
from harness.seeding import seeded_generator
from harness.store.rundir import EvaluationDirectory
from harness.store.text import counted

Stage = tuple[Tensor, StageFacts, Tensor]
T = TypeVar("T")


def chunk_count(settings: EvalSettings, images: ImageSource) -> int:
    """Return the number of chunks of an evaluation, the most possible if it may stop early."""
    count = min(len(images), settings.limit or settings.n_max or len(images))
    return -(-count // settings.chunk_size)


def _not_sent(error: Exception) -> UserError:
    return UserError(
        f"the model cannot be sent to another process ({error}): evaluate with --workers 1, and "
        "not on a cluster"
    )


@dataclass(eq=False)
class Job:
    """Everything a process needs to attack any chunk of an evaluation.

    Attributes:
        model: in eval mode, on the device.
        model_sha256: hash of its parameters and buffers.
        images: the test split.
        protocol: the protocol.
        plan: how the attacked copy of the model is run.
        directory: the evaluation's directory, which gets the chunks.
        device: where to compute.
        forecast: expected cost of chunks, for progress; None if unknown.
    """

    model: nn.Module
    model_sha256: str
    images: ImageSource
    protocol: EvalProtocol
    plan: Plan
    directory: EvaluationDirectory
    device: torch.device
    forecast: Forecast | None = None
    _halvings: list[str] = field(default_factory=list, init=False)

    @property
    def chunks(self) -> int:
        """The number of chunks, which are numbered from 0."""
        return chunk_count(self.protocol, self.images)

    @property
    def num_classes(self) -> int:
        """The number of classes of the dataset."""
        return self.images.info.num_classes

    @cached_property
    def positions(self) -> Tensor:
        """Positions [N] of the evaluation's images in the split, in the order of attack."""
        if self.protocol.order == "random":
            order = seeded_generator(torch.device("cpu"), self.protocol.seed, "order")
            return torch.randperm(len(self.images), generator=order)
        return torch.arange(len(self.images))[: self.protocol.limit]

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Return the chunks without an undamaged file, or without the images to be saved."""
        return [number for number in numbers if not self.is_finished(number)]

    def lacks_images(self, count: int) -> bool:
        """Whether adversarial images to be saved are missing among the first ``count``."""
        if self.protocol.save_adversarial == "no":
            return False
        return bool(self.missing(range(math.ceil(count / self.protocol.chunk_size))))

    def is_finished(self, number: int) -> bool:
        """Whether a chunk is on disk; an invalid file is removed."""
        return is_finished(
            self.directory.chunk_path(number),
            self.chunk(number),
            self.directory.evaluation_id,
            self.protocol.save_adversarial,
        )

    def chunk(self, number: int) -> Chunk:
        """Return a chunk by its number."""
        positions = self.positions.split(self.protocol.chunk_size)[number]
        seed = chunk_seed(self.protocol.seed, number)
        rows, labels = self.images.rows[positions], self.images.labels[positions]
        return Chunk(number, seed, positions, rows, labels)

    def on(self, device: torch.device) -> Job:
        """Return the same job on another device."""
        return replace(self, model=self.model.to(device), device=device)

    def pickled(self) -> bytes:
        """Pickle the job for another process, with its model on the CPU.

        Raises:
            UserError: the model cannot be pickled.
        """
        try:
            return pickle.dumps(replace(self, model=deepcopy(self.model).cpu()))
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
            raise _not_sent(error) from error

    @staticmethod
    def unpickled(content: bytes) -> Job:
        """Load a pickled job in another process.

        Raises:
            UserError: the model's class cannot be imported there, such as one of a notebook.
        """
        try:
            job: Job = pickle.loads(content)
        except (AttributeError, ImportError) as error:
            raise _not_sent(error) from error
        return job

    @cached_property
    def attacked(self) -> AttackModel:
        """The network that the attacks query, accelerated if the plan says so."""
        protocol, plan = self.protocol, self.plan
        batching = Batching(protocol.device_batch, plan.tile, plan.multiple, plan.graph_sizes)
        network = apply(self.model, plan) if protocol.accelerate else self.model
        return AttackModel(
            RecordedNetwork(network, batching) if plan.graph_sizes else network,
            self.num_classes,
            batching,
            layout=plan.layout,
            autocast=torch.bfloat16 if protocol.precision == "bf16" else None,
        )

    @cached_property
    def judge(self) -> AttackModel:
        """The original network, for verdicts and for images that the attacked one misclassifies."""
        return AttackModel(self.model, self.num_classes, Batching(limit=self.protocol.device_batch))

    def attack(self, number: int, progress: ProgressFn, path: Path | None = None) -> None:
        """Attack a chunk and write its file.

        Args:
            number: the chunk's number.
            progress: called with the share of the chunk's work that is done, and a note on the
                chunk and the current work.
            path: the file to write; by default the chunk's path in the evaluation's directory.

        Raises:
            UserError: the model's parameters or buffers changed; nothing is written.
        """
        chunk = self.chunk(number)
        images = unit_images(self.images, chunk.positions)
        began = time.perf_counter()

        def advance(share: float, note: str) -> None:
            progress(share, f"chunk {number}: {note}")

        with own_random_state(self.device):
            result = self._run(chunk, images.to(self.device), advance)
        kept, rounding = self._kept(result, images)
        ensure_unchanged(self.model, self.model_sha256)
        facts = {
            "evaluation_id": self.directory.evaluation_id,
            "chunk": number,
            "seconds": time.perf_counter() - began,
            "acceleration": asdict(self.plan),
            **result.facts(),
            "adversarial": rounding,
        }
        write_chunk(path or self.directory.chunk_path(number), result.table(), facts, kept)

    def _run(self, chunk: Chunk, x: Tensor, progress: ProgressFn) -> ChunkResult:
        """Run the clean pass, then each stage from the clean images that survived so far."""
        self._halvings = []
        labels = chunk.labels.to(self.device)
        result = ChunkResult.after_clean_pass(chunk, x, self._judged(x))
        lost, spent = self._misread(x, labels), 0.0
        for number, name in enumerate(self.protocol.attacks):
            alive = result.correct.nonzero()[:, 0]
            if not len(alive):
                break
            advance, cost = self._stage_progress(number, len(alive), spent, progress)
            spent += cost
            found, facts, target = self._attack(
                name, x[alive], labels[alive], lost[alive], chunk.seed, advance
            )
            logits = self._judged(found)
            broken = predict(logits) != labels[alive]
            facts.broken = int(broken.sum())
            result.stages[name] = facts
            result.break_images(
                alive[broken],
                name,
                found[broken],
                logits[broken],
                perturbation_norm(found[broken], x[alive[broken]], self.protocol.norm),
                target[broken],
            )
        progress(1.0, "done")
        result.out_of_memory = self._halvings
        return result

    def _misread(self, x: Tensor, y: Tensor) -> Tensor:
        """Return which clean images [N] the attacked network misclassifies.

        Its rounding can do so near a decision boundary to images that the judge gets right. Attacks
        skip such images, which would then count as robust although nothing had attacked them.
        """
        self.attacked.listener = None
        with torch.no_grad(), pinned("reference"):
            logits = self._fitted("clean", self.attacked.batching, len(x), lambda: self.attacked(x))
        return predict(logits) != y

    def _attack(
        self,
        name: AttackName,
        x: Tensor,
        y: Tensor,
        lost: Tensor,
        seed: int,
        advance: Callable[[int], None],
    ) -> Stage:
        """Run one attack on the attacked network, or the original one for images in ``lost``."""
        self.attacked.listener = advance
        found, facts, target = self._stage(self.attacked, x, y, name, seed)
        if bool(lost.any()):
            again, more, aimed = self._stage(self.judge, x[lost], y[lost], name, seed)
            found[lost] = again
            facts.add(more)
            target[lost] = aimed
        return found, facts, target

    def _stage(
        self, network: AttackModel, x: Tensor, y: Tensor, name: AttackName, seed: int
    ) -> Stage:
        """Run one attack: return images like ``x`` inside the ball, its facts and targets [M]."""
        protocol = self.protocol

        def attempt() -> Stage:
            network.reset()
            attack = make_attack(name, network, protocol, seed, self.device)
            began = time.perf_counter()
            with pinned("reference" if network is self.attacked else "strict"):
                returned = attack.perturb(x.clone(), y.clone()).detach()
            found, outside = clip_to_ball(returned, x, protocol.norm, protocol.eps)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            facts = StageFacts(
                attacked=len(x),
                forward=network.forward_images,
                backward=network.backward_images,
                repeated=network.repeated_images,
                seconds=time.perf_counter() - began,
                left_ball=int(outside.sum()),
                not_finite=int(network.not_finite),
                zero_gradient=zero_gradient_starts(attack),
            )
            return found, facts, aimed_targets(attack, y)

        return self._fitted(name, network.batching, len(x), attempt)

    def _judged(self, x: Tensor) -> Tensor:
        """Return the original network's logits [B, C] of images [B, K, H, W], in strict float32."""
        with torch.no_grad(), pinned("strict"):
            return self._fitted("judge", self.judge.batching, len(x), lambda: self.judge(x))

    def _fitted(self, what: str, batching: Batching, count: int, attempt: Callable[[], T]) -> T:
        """Run an attempt, which seeds itself, within memory; record each halving of the batch."""
        return within_memory(batching, count, attempt, lambda: self._halvings.append(what))

    def _stage_progress(
        self, stage: int, alive: int, spent: float, progress: ProgressFn
    ) -> tuple[Callable[[int], None], float]:
        """Report a stage's progress by its forward passes.

        Args:
            stage: its number.
            alive: how many of the chunk's images it attacks.
            spent: the cost of the stages before it.
            progress: called with the share of the chunk's work that is done.

        Returns:
            A function to call with the number of images in forward passes, and the stage's cost.
        """
        protocol = self.protocol
        forecast = self.forecast or Forecast.by_passes(protocol, self.num_classes)
        cost = forecast.stages[stage].seconds(alive)
        everything = spent + forecast.remaining(stage, alive)
        expected = alive * passes(protocol.attacks[stage], protocol.budget, self.num_classes)[0]
        note = f"{protocol.attacks[stage]}, {counted(alive, 'image')} left"

        def advance(forward: int) -> None:
            done = spent + cost * min(1.0, forward / expected)
            progress(done / everything if everything else 0.0, note)

        advance(0)
        return advance, cost

    def _kept(
        self, result: ChunkResult, clean: Tensor
    ) -> tuple[np.ndarray[Any, Any] | None, dict[str, Any] | None]:
        """Return the adversarial images to save, if any, and facts about their rounding."""
        kind = self.protocol.save_adversarial
        if kind == "no":
            return None, None
        adversarial = result.adversarial.cpu()
        broken = torch.tensor([stage not in (None, "clean") for stage in result.broken_by])
        facts: dict[str, Any] = {"kept": kind, "broken": int(broken.sum()), "no_longer_broken": []}
        if kind == "float32":
            return adversarial.numpy(), facts
        images = on_grid(adversarial, clean, self.protocol.norm, self.protocol.eps)
        logits = self._judged((images.float() / LEVELS).to(self.device))
        chunk = result.chunk
        harmless = (predict(logits).cpu() == chunk.labels) & broken
        facts["no_longer_broken"] = chunk.rows[harmless].tolist()
        return images.numpy(), facts
