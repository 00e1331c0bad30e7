"""What the decoupled divergences share as distillation losses."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from harness.method import Batch, StepOutput, TaskContext
from methods.distillation._task import LogitTask, Terms, WarmedParams
from methods.losses.class_means import ClassMeans
from methods.losses.divergence import DecoupledParts
from methods.losses.logits import sample_weights


class DecoupledKdParams(WarmedParams):
    """Weights of the two parts, and how classes are weighted in the first.

    ``temperature`` softens both networks' logits in the soft cross-entropy. Classes are weighted
    by the teacher's prediction: each sample's own, softmax(t / ``sample_temperature``), or, with
    ``global_information``, the mean of softmax(t / ``class_temperature``) over the sample's class
    in the epoch before.
    """

    wmse_weight: float = Field(8.0, ge=0)
    ce_weight: float = Field(1.0, ge=0)
    temperature: float = Field(4.0, gt=0)
    global_information: bool = False
    sample_temperature: float = Field(1.0, gt=0)
    class_temperature: float = Field(1.0, gt=0)


class DecoupledKdTask(LogitTask):
    """A decoupled divergence between the teacher's and the student's logits."""

    def __init__(self, params: Any, context: TaskContext) -> None:
        """Class means start uniform, and are kept where they are asked for."""
        super().__init__(params, context)
        self.class_means = (
            ClassMeans(
                context.num_classes, temperature=params.class_temperature, device=context.device
            )
            if params.global_information
            else None
        )

    def divergence(
        self, student_BC: Tensor, teacher_BC: Tensor, weights_BC: Tensor
    ) -> DecoupledParts:
        """The divergence's unweighted parts."""
        raise NotImplementedError

    def weights(self, batch: Batch) -> Tensor:
        """Class weights [B, C]."""
        if self.class_means is not None:
            return self.class_means.of(batch.y)
        return sample_weights(batch.teacher_logits, self.params.sample_temperature)

    def terms(self, student_BC: Tensor, batch: Batch) -> Terms:
        """The weighted MSE and the soft cross-entropy, both under the warm-up."""
        parts = self.divergence(student_BC, batch.teacher_logits, self.weights(batch))
        share = self.params.warmup(batch.epoch)
        return {
            "wmse": (share * self.params.wmse_weight, parts.wmse),
            "soft_ce": (share * self.params.ce_weight, parts.ce),
        }

    def observe(self, batch: Batch, output: StepOutput) -> None:
        """Gather the teacher's predictions of the augmented images."""
        if self.class_means is not None:
            self.class_means.update(batch.teacher_logits, batch.y)

    def end_epoch(self, epoch: int) -> None:
        """The next epoch is weighted by this epoch's means."""
        if self.class_means is not None:
            self.class_means.end_epoch()
