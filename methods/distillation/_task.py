"""Parameters and base task shared by the distillation methods."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from harness.errors import UserError
from harness.method import Batch, Forward, Params, Task
from harness.models.features import FeatureNetwork, Features, features_of
from harness.models.normalize import Normalized
from harness.models.shapes import feature_shapes

Network = FeatureNetwork | Normalized


class DistillationParams(Params):
    """The weight of the labels' cross-entropy."""

    label_weight: float = Field(1.0, ge=0)


class WarmedParams(DistillationParams):
    """The teacher's weight grows as e / ``warmup_epochs`` to its full value; 1 means no warm-up."""

    warmup_epochs: int = Field(20, ge=1)

    def warmup(self, epoch: int) -> float:
        """Return the factor in (0, 1] of the teacher's weight in ``epoch``, counted from 1."""
        return min(epoch / self.warmup_epochs, 1.0)


class TwoStageParams(DistillationParams):
    """Training has two stages; ``first_stage`` is the first one's share of all epochs."""

    first_stage: float = Field(1 / 9, gt=0, lt=1)

    def in_first_stage(self, epoch: int, epochs: int) -> bool:
        """Return whether ``epoch`` is in the first stage; each stage has at least one epoch.

        Raises:
            UserError: there are not enough epochs for two stages.
        """
        if epochs < 2:
            raise UserError("this method trains in two stages: set training.epochs to 2 or more")
        return epoch <= min(max(1, round(self.first_stage * epochs)), epochs - 1)


class FeatureTask(Task):
    """A task that compares features; teacher and student get the same images."""

    def features(self, model: Forward, batch: Batch) -> tuple[Features, Features]:
        """Return the student's features and the teacher's, the latter without gradient."""
        student = features_of(model, batch.x)
        with torch.no_grad():
            return student, self.teacher_features(batch.x)

    def teacher_features(self, x: Tensor) -> Features:
        """Return the teacher's features of images [B, K, H, W]."""
        return self.teacher.features(x)

    # Both models belong to the engine. They are read from the context, not registered as submodules
    # of the task, so they enter neither its checkpoint nor the optimiser.

    @property
    def teacher(self) -> Network:
        """The trained teacher."""
        return _with_features(self.context.teacher, "teacher")

    @property
    def student(self) -> Network:
        """The model in training, for its shapes."""
        return _with_features(self.context.student, "student")

    def require_same_channels(self) -> None:
        """Check that both models' features have the same channels, including the stem.

        Raises:
            UserError: the channels differ.
        """
        student, teacher = self.student.feature_channels, self.teacher.feature_channels
        if student != teacher:
            raise UserError(
                "this method needs the same channels in both models, but the student's features "
                f"have {student} and the teacher's {teacher}: choose another pair or method"
            )

    def shapes(self, model: Network) -> Features:
        """Return the model's features of one image of the dataset, as tensors without values."""
        return feature_shapes(model, self.context.in_channels, self.context.image_size)


def _with_features(model: Any, role: str) -> Network:
    if model is None:
        raise UserError(f"this method needs a {role}: set {role}.arch")
    bare = model.model if isinstance(model, Normalized) else model
    if not isinstance(bare, FeatureNetwork):
        raise UserError(
            f"the {role}, a {type(bare).__name__}, does not expose its features: choose a model "
            "from `list models`, or a method that needs only logits"
        )
    found: Network = model
    return found
