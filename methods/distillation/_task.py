"""What distillation methods share: cross-entropy of the labels plus weighted terms."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from harness.method import Batch, Forward, Params, StepOutput, Task
from harness.models.features import FeatureNetwork, Features, features_of
from harness.models.normalize import Normalized
from harness.models.shapes import feature_shapes
from methods.losses.divergence import float32_or_wider

Terms = dict[str, tuple[float, Tensor]]
Network = FeatureNetwork | Normalized


class DistillationParams(Params):
    """The weight of the labels' cross-entropy."""

    label_weight: float = Field(1.0, ge=0)


class WarmedParams(DistillationParams):
    """The teacher's weight grows as e / ``warmup_epochs`` to its full height; 1 is no warm-up."""

    warmup_epochs: int = Field(20, ge=1)

    def warmup(self, epoch: int) -> float:
        """The share in (0, 1] of the teacher's full weight in ``epoch``, counted from 1."""
        return min(epoch / self.warmup_epochs, 1.0)


class DistillationTask(Task):
    """label_weight CE(s, y) plus weighted terms that bind the student to the teacher."""

    def combined(self, logits_BC: Tensor, batch: Batch, terms: Terms) -> StepOutput:
        """The loss and its unweighted parts; ``terms`` is name to (weight, unweighted scalar)."""
        ce = cross_entropy(float32_or_wider(logits_BC), batch.y)
        loss = self.params.label_weight * ce
        parts = {"ce": ce.detach()}
        for name, (weight, value) in terms.items():
            loss = loss + weight * value
            parts[name] = value.detach()
        return StepOutput(loss, parts)


class LogitTask(DistillationTask):
    """Terms of the logits alone: the engine brings the teacher's."""

    needs_teacher_logits: ClassVar[bool] = True

    def terms(self, student_BC: Tensor, batch: Batch) -> Terms:
        """The terms; ``batch.teacher_logits`` are the teacher's logits."""
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """One forward pass of the student."""
        student_BC = model(batch.x)
        return self.combined(student_BC, batch, self.terms(student_BC, batch))


class FeatureTask(DistillationTask):
    """Terms of both networks' features; the teacher sees the images that the student sees."""

    def terms(self, student: Features, teacher: Features, batch: Batch) -> Terms:
        """The terms; the teacher's features have no gradient."""
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """One forward pass of each network."""
        student, teacher = self.both(model, batch)
        return self.combined(student.logits, batch, self.terms(student, teacher, batch))

    def both(self, model: Forward, batch: Batch) -> tuple[Features, Features]:
        """The student's features and the teacher's, which have no gradient."""
        student = features_of(model, batch.x)
        with torch.no_grad():
            return student, self.taught(batch.x)

    def taught(self, x: Tensor) -> Features:
        """The teacher's features of images [B, K, H, W]."""
        return self.teacher.features(x)

    # Both networks stay the engine's: as part of the context they are no submodules of the task,
    # so that they enter neither its checkpoint nor the optimiser.

    @property
    def teacher(self) -> Network:
        """The trained network."""
        return _shows_features(self.context.teacher, "teacher")

    @property
    def student(self) -> Network:
        """The network in training, for its shapes."""
        return _shows_features(self.context.student, "student")

    def shapes(self, network: Network) -> Features:
        """Its features of one image of the data set, as tensors without values."""
        return feature_shapes(network, self.context.in_channels, self.context.image_size)


def _shows_features(network: Any, role: str) -> Network:
    if network is None:
        raise UserError(f"this method needs a {role} and was given none: set {role}.arch")
    bare = network.model if isinstance(network, Normalized) else network
    if not isinstance(bare, FeatureNetwork):
        raise UserError(
            f"the {role}, a {type(bare).__name__}, does not show its features: choose one of "
            "`list models`, or a method that needs logits only"
        )
    shown: Network = network
    return shown
