"""Snapshot distillation: the model of each cycle teaches the next one (Yang et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from pydantic import Field
from torch import nn

from harness.errors import UserError
from harness.method import Batch, Forward, Method, MethodCard, StepOutput, Task, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import kl_divergence
from methods.losses.precision import float32_or_wider

CYCLES = 4


class SnapshotKdParams(DistillationParams):
    """The teacher's weight, and the temperature that smooths only the teacher's predictions."""

    kd_weight: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, gt=0)


class SnapshotKdTask(Task):
    """Copy the model at the end of each learning-rate cycle, and distil the copy in the next one.

    The copy belongs to the task, so it is part of every checkpoint.
    """

    def __init__(self, params: SnapshotKdParams, context: TaskContext) -> None:
        """Copy the model in training; in the first cycle there is no teacher.

        Raises:
            UserError: the learning rate has one cycle.
        """
        super().__init__(params, context)
        if context.student is None:
            raise RuntimeError("snapshot-kd copies the model in training, but has none")
        if len(context.cycle_ends) < 2:
            raise UserError(
                "snapshot-kd learns from the model of the previous cycle, but the learning rate "
                "has one cycle: set training.optimizer.cycles and training.epochs to 2 or more"
            )
        self.snapshot = deepcopy(context.student).eval().requires_grad_(False)

    def optimised_parameters(self) -> Iterable[nn.Parameter]:
        """Return no parameters: the copy is not trained."""
        return ()

    def train(self, mode: bool = True) -> SnapshotKdTask:
        """Keep the copy in eval mode."""
        super().train(mode)
        self.snapshot.eval()
        return self

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + kd_weight KL(softmax(t / T) || softmax(s)) from the second cycle on."""
        student_BC = model(batch.x)
        ce = label_cross_entropy(student_BC, batch.targets)
        if batch.epoch <= self.context.cycle_ends[0]:
            return StepOutput(self.params.label_weight * ce, detached(ce=ce))
        with torch.no_grad():
            teacher_BC = float32_or_wider(self.snapshot(batch.x)) / self.params.temperature
        kl = kl_divergence(teacher_BC, student_BC)
        loss = self.params.label_weight * ce + self.params.kd_weight * kl
        return StepOutput(loss, detached(ce=ce, kl=kl))

    def end_epoch(self, epoch: int) -> None:
        """Copy the model at the end of a cycle."""
        if epoch in self.context.cycle_ends and self.context.student is not None:
            self.snapshot.load_state_dict(self.context.student.state_dict())


def _settings(pair: _pairs.Pair) -> Overrides:
    cosine = {"schedule": "cosine", "milestones": [], "cycles": CYCLES}
    return {"teacher": None, "training": {"optimizer": cosine}}


METHOD = Method(
    card=MethodCard(
        title="Snapshot KD",
        family="distillation",
        summary="Trains in cycles of the learning rate, each distilled from the smoothed "
        "predictions of the model at the end of the previous cycle.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{kd\_weight}\, "
            r"D_{\mathrm{KL}}(\mathrm{Softmax}(t / \mathtt{temperature}) \,\|\, "
            r"\mathrm{Softmax}(s)), \quad t \text{ of the cycle before}"
        ),
        **cite("yang2019snapshot"),
        notes=(
            "No separate teacher is trained. A pair's recipe trains its student in four cosine "
            "cycles of equal length; training.optimizer.cycles sets their number, and the result "
            "is the last cycle's model.",
            "The authors release no code. Only the teacher's predictions are smoothed, as in the "
            "paper. A reimplementation by others also has four cycles; from the second on, its "
            "teacher weight is 1 and its label weight 1 + 1/temperature. Here both weights are 1; "
            "params.label_weight=1.5 is its value at temperature 2, but in all cycles.",
        ),
    ),
    params=SnapshotKdParams,
    task=SnapshotKdTask,
    recipes=_pairs.recipes(
        _settings,
        pairs=_pairs.CIFAR_PAIRS,
        small_changes={"teacher": None, "training": {"optimizer": {"cycles": 3}}},
    ),
)
