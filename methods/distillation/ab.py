"""AB: the student imitates the teacher's activation boundaries (Heo et al., 2019)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import FeatureTask, TwoStageParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.hints import HintRegressor
from methods.losses.precision import float32_or_wider
from methods.losses.stages import matched_stages


def boundary_loss(student_BKHW: Tensor, teacher_BKHW: Tensor, margin: float) -> Tensor:
    """Squared distance of the student's value from the margin on the teacher's side of zero.

    (s - margin)^2 where t > 0 and s <= margin, (s + margin)^2 where t <= 0 and s > -margin.

    Source: Heo et al., "Knowledge transfer via distillation of activation boundaries formed by
    hidden neurons", AAAI 2019, Eq. 5.

    Args:
        student_BKHW: values before activation, [B, K, H, W].
        teacher_BKHW: the teacher's, of the same shape; no gradient flows into them.
        margin: >= 0.

    Returns:
        The sum over channels and space, averaged over the batch, a scalar >= 0.
    """
    student_BKHW = float32_or_wider(student_BKHW)
    missing_BKHW = torch.where(
        teacher_BKHW.detach() > 0,
        (margin - student_BKHW).clamp_min(0),
        (margin + student_BKHW).clamp_min(0),
    )
    return missing_BKHW.square().sum() / len(student_BKHW)


class Connector(HintRegressor):
    """``HintRegressor`` without the activation."""

    def forward(self, student_BKHW: Tensor) -> Tensor:
        """Return the student's map in the teacher's shape."""
        connected: Tensor = self.bn(self.conv(student_BKHW))
        return connected


class AbParams(TwoStageParams):
    """The weight of the boundaries in the first stage, and their margin."""

    boundary_weight: float = Field(3e-3, ge=0)
    margin: float = Field(1.0, ge=0)


class AbTask(FeatureTask):
    """First learn the teacher's boundaries through connectors; then train the student on labels."""

    def __init__(self, params: AbParams, context: TaskContext) -> None:
        """Build a connector for each pair of stages that have different shapes.

        Raises:
            UserError: no convolution maps a stage to the teacher's size.
        """
        super().__init__(params, context)
        shapes = (
            [(preact.shape[1], preact.shape[2]) for preact in self.shapes(model).preacts]
            for model in (self.student, self.teacher)
        )
        self.connectors = nn.ModuleList(
            nn.Identity() if s == t else Connector(s, t) for s, t in matched_stages(*shapes)
        )

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """boundary_weight sum_l 2^(l - n) boundary_loss_l in the first stage, then label_weight CE.

        The sum is over pairs of network stages l = 1 to n.
        """
        if not self.params.in_first_stage(batch.epoch, self.context.epochs):
            ce = label_cross_entropy(model(batch.x), batch.targets)
            return StepOutput(self.params.label_weight * ce, detached(ce=ce))
        student, teacher = self.features(model, batch)
        pairs = matched_stages(student.preacts, teacher.preacts)
        terms = [
            boundary_loss(connect(s), t, self.params.margin) / 2 ** (len(pairs) - number)
            for number, (connect, (s, t)) in enumerate(
                zip(self.connectors, pairs, strict=True), start=1
            )
        ]
        boundaries = torch.stack(terms).sum()
        return StepOutput(self.params.boundary_weight * boundaries, detached(boundaries=boundaries))


METHOD = Method(
    card=MethodCard(
        title="AB",
        family="distillation",
        summary="First trains the student's stages to be active at the same positions as the "
        "teacher's, whatever the values; then trains the student on labels.",
        formula=(
            r"\mathtt{boundary\_weight} \sum_{l=1}^n 2^{l - n} \sum \left[1_{t > 0} "
            r"(\mathtt{margin} - s)_+^2 + 1_{t \le 0} (\mathtt{margin} + s)_+^2\right] \text{ in "
            r"the first stage, then } \mathtt{label\_weight}\, \mathrm{CE}(s, y)"
        ),
        **cite("heo2019knowledge"),
        notes=(
            "The first stage has 30 epochs, as in RepDistiller's table, and the second uses labels "
            "only; the paper's second stage adds KD. Momentum is kept between the stages; the "
            "released code uses a separate optimiser for each.",
            "As released, a network stage has half the weight of the next, the sum is scaled by "
            "0.003, and stages of the same shape have no connector. Other connectors are FitNet's "
            "convolutions with BatchNorm; the paper's are 1x1.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "gamma", "margin": "margin"},
    ),
    params=AbParams,
    task=AbTask,
    recipes=_pairs.recipes(_pairs.two_stages, pairs=_pairs.CIFAR_PAIRS),
)
