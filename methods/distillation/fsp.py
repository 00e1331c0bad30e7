"""FSP: products of maps between two stages imitate the teacher's (Yim et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import FeatureTask, TwoStageParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import exact_matmul, float32_or_wider
from methods.losses.stages import pooled_to


def flow_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """sum_l mean (G_l(s) - G_l(t))^2, G_l the mean over positions of products of channels.

    Each channel of a stage is multiplied by each channel of the previous stage, with the larger map
    pooled to the smaller: the "flow of solution procedure".

    Source: Yim et al., "A gift from knowledge distillation", CVPR 2017, Eqs. 1-2.

    Args:
        student: feature maps [B, K, H, W] of the stem and of each stage.
        teacher: the teacher's maps, with the same channels; no gradient flows into them.

    Returns:
        The mean over the batch and the entries of G, summed over pairs of stages, a scalar >= 0.
    """
    terms = [
        (_flow(*s) - _flow(*(each.detach() for each in t))).square().mean()
        for s, t in zip(pairwise(student), pairwise(teacher), strict=True)
    ]
    return torch.stack(terms).sum()


def _flow(before_BKHW: Tensor, after_BLHW: Tensor) -> Tensor:
    """Return G [B, L, K]."""
    before_BKP = float32_or_wider(pooled_to(before_BKHW, after_BLHW)).flatten(2)
    after_BLP = float32_or_wider(pooled_to(after_BLHW, before_BKHW)).flatten(2)
    return exact_matmul(after_BLP, before_BKP.transpose(1, 2)) / before_BKP.shape[2]


class FspParams(TwoStageParams):
    """See the base class."""


class FspTask(FeatureTask):
    """First learn the teacher's flow in the student's stages; then train the student on labels."""

    def __init__(self, params: FspParams, context: TaskContext) -> None:
        """Check the channels.

        Raises:
            UserError: the models' features have different channels.
        """
        super().__init__(params, context)
        self.require_same_channels()

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """The flows' distance in the first stage, then label_weight CE."""
        if self.params.in_first_stage(batch.epoch, self.context.epochs):
            student, teacher = self.features(model, batch)
            flow = flow_loss(student.stages, teacher.stages)
            return StepOutput(flow, detached(flow=flow))
        ce = label_cross_entropy(model(batch.x), batch.targets)
        return StepOutput(self.params.label_weight * ce, detached(ce=ce))


METHOD = Method(
    card=MethodCard(
        title="FSP",
        family="distillation",
        summary="First trains the student to imitate how the teacher's features flow from stage to "
        "stage, measured by products of their maps; then trains it on labels.",
        formula=(
            r"\sum_l \mathrm{mean} \left(G_l^s - G_l^t\right)^2 \text{ in the first "
            r"stage, then } \mathtt{label\_weight}\, \mathrm{CE}(s, y), \quad G_l = "
            r"\frac{1}{HW} \sum_{hw} f_{l+1} f_l^\top"
        ),
        **cite("yim2017gift"),
        notes=(
            "The first stage has 30 epochs, as in RepDistiller's table. RepDistiller's weight of "
            "50 has no effect and is left out here. Momentum is kept between the stages; the "
            "released code uses a separate optimiser for each.",
            "Both models need the same channels, as five of the eleven CIFAR pairs have. "
            "RepDistiller reports no numbers for the others either.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "gamma"},
    ),
    params=FspParams,
    task=FspTask,
    recipes=_pairs.recipes(_pairs.two_stages, pairs=_pairs.SAME_CHANNELS),
)
