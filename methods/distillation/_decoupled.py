"""Parameters and base task of the decoupled divergences as distillation losses."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from harness.method import Batch, Forward, StepOutput, Task, TaskContext
from methods._steps import detached
from methods.distillation._task import WarmedParams
from methods.losses.class_means import ClassMeans
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import DecoupledParts
from methods.losses.logits import sample_weights


class DecoupledKdParams(WarmedParams):
    """Weights of the two parts, and how classes are weighted in the first.

    ``temperature`` softens both models' logits in the soft cross-entropy. Classes are weighted by
    the teacher's prediction for each sample, softmax(t / ``sample_temperature``), or, with
    ``global_information``, by the mean of softmax(t / ``class_temperature``) over the sample's
    class in the previous epoch.
    """

    wmse_weight: float = Field(8.0, ge=0)
    ce_weight: float = Field(1.0, ge=0)
    temperature: float = Field(4.0, gt=0)
    global_information: bool = False
    sample_temperature: float = Field(1.0, gt=0)
    class_temperature: float = Field(1.0, gt=0)


class DecoupledKdTask(Task):
    """Base of tasks that distil by a decoupled divergence, with class weights from the teacher."""

    needs_teacher_logits = True

    def __init__(self, params: Any, context: TaskContext) -> None:
        """Start from uniform class means, which only global information needs."""
        super().__init__(params, context)
        self.class_means = (
            ClassMeans(
                context.num_classes, temperature=params.class_temperature, device=context.device
            )
            if params.global_information
            else None
        )

    def divergence(self, batch: Batch, student_BC: Tensor, weights_BC: Tensor) -> DecoupledParts:
        """The two parts, unweighted, for the student's logits and the classes' weights."""
        raise NotImplementedError

    def class_weights(self, batch: Batch) -> Tensor:
        """Return class weights [B, C]."""
        if self.class_means is not None:
            return self.class_means.of(batch.y)
        return sample_weights(batch.teacher_logits, self.params.sample_temperature)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + warm-up (wmse_weight wMSE + ce_weight soft CE)."""
        student_BC = model(batch.x)
        parts = self.divergence(batch, student_BC, self.class_weights(batch))
        ce, warmup = label_cross_entropy(student_BC, batch.targets), self.params.warmup(batch.epoch)
        loss = self.params.label_weight * ce
        loss = loss + warmup * self.params.wmse_weight * parts.wmse
        loss = loss + warmup * self.params.ce_weight * parts.ce
        return StepOutput(loss, detached(ce=ce, wmse=parts.wmse, soft_ce=parts.ce))

    def observe(self, batch: Batch, output: StepOutput) -> None:
        """Add the teacher's predictions on the augmented images to the class means."""
        if self.class_means is not None:
            self.class_means.update(batch.teacher_logits, batch.y)

    def end_epoch(self, epoch: int) -> None:
        """Weight the next epoch by this epoch's means."""
        if self.class_means is not None:
            self.class_means.end_epoch()
