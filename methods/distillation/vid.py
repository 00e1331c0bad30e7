"""VID: the student's maps predict the teacher's (Ahn et al., 2019)."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import softplus

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import float32_or_wider
from methods.losses.stages import matched_stages, pooled_to


def gaussian_nll(mean_BKHW: Tensor, variance_K: Tensor, teacher_BKHW: Tensor) -> Tensor:
    """Mean Gaussian negative log-likelihood, without the constant log(2 pi) / 2.

    It is mean [(t - mean)^2 / variance + log variance] / 2.

    Source: Ahn et al., "Variational information distillation for knowledge transfer", CVPR 2019,
    Eq. 4, with the mean over elements that the authors' code takes.

    Args:
        mean_BKHW: the prediction [B, K, H, W].
        variance_K: its variance for each channel, > 0.
        teacher_BKHW: the teacher's map of the prediction's shape; no gradient flows into it.

    Returns:
        A scalar.
    """
    variance_K11 = float32_or_wider(variance_K).view(-1, 1, 1)
    error_BKHW = float32_or_wider(mean_BKHW) - float32_or_wider(teacher_BKHW.detach())
    return (error_BKHW.square() / variance_K11 + variance_K11.log()).mean() / 2


class Predictor(nn.Module):
    """A Gaussian model of the teacher's map given the student's: its mean and variance."""

    def __init__(self, inputs: int, outputs: int, variance: float, floor: float) -> None:
        """Build three 1x1 convolutions without bias for the mean, and a variance for each channel.

        Args:
            inputs: channels of the student's map.
            outputs: channels of the teacher's map.
            variance: initial value of the variances, more than ``floor``.
            floor: smallest variance.
        """
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        self.floor, above = floor, variance - floor
        # The inverse of softplus, which does not overflow.
        raw = above + math.log(-math.expm1(-above))
        self.raw_variance = nn.Parameter(torch.full((outputs,), raw))

    def forward(self, student_BKHW: Tensor, teacher_BKHW: Tensor) -> Tensor:
        """Return the loss of one stage; the larger map is pooled to the smaller."""
        mean_BKHW = self.mean(pooled_to(student_BKHW, teacher_BKHW))
        variance_K = softplus(float32_or_wider(self.raw_variance)) + self.floor
        return gaussian_nll(mean_BKHW, variance_K, pooled_to(teacher_BKHW, student_BKHW))


class VidParams(DistillationParams):
    """The weight of the prediction, the initial value of its variances, and their minimum."""

    prediction_weight: float = Field(1.0, ge=0)
    initial_variance: float = Field(5.0, gt=0)
    least_variance: float = Field(1e-5, gt=0)

    @model_validator(mode="after")
    def _starts_above_the_minimum(self) -> Self:
        if self.initial_variance <= self.least_variance:
            raise ValueError(
                f"initial_variance {self.initial_variance:g} is not more than least_variance "
                f"{self.least_variance:g}: give a larger one"
            )
        return self


class VidTask(FeatureTask):
    """A predictor for each stage is trained alongside the student."""

    def __init__(self, params: VidParams, context: TaskContext) -> None:
        """Build a predictor for each pair of stages."""
        super().__init__(params, context)
        channels = matched_stages(self.student.feature_channels, self.teacher.feature_channels)
        self.predictors = nn.ModuleList(
            Predictor(*pair, params.initial_variance, params.least_variance) for pair in channels
        )

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + prediction_weight times the NLL, summed over stages."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        pairs = matched_stages(student.stages, teacher.stages)
        terms = [predict(*maps) for predict, maps in zip(self.predictors, pairs, strict=True)]
        nll = torch.stack(terms).sum()
        loss = self.params.label_weight * ce + self.params.prediction_weight * nll
        return StepOutput(loss, detached(ce=ce, nll=nll))


METHOD = Method(
    card=MethodCard(
        title="VID",
        family="distillation",
        summary="Trains the student's maps to predict the teacher's by a Gaussian of trained mean "
        "and variance, which raises a bound on their mutual information.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{prediction\_weight} \sum_l "
            r"\mathrm{mean}\, \frac{1}{2} \left[\frac{(f_t^l - \mu_l(f_s^l))^2}{\sigma_l^2} + "
            r"\log \sigma_l^2\right]"
        ),
        **cite("ahn2019variational"),
        notes=(
            "The paper sums over elements and writes log sigma; the authors' code in RepDistiller, "
            "which is followed here, takes the mean and half the log of the variance.",
            "The variances are trained, as in the paper and RepDistiller; mdistiller leaves them "
            "out of the optimiser, so they stay 5.",
            "Stages are paired from the last one backwards; the stem is left out. The weight is "
            "the same for all pairs.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "CE_WEIGHT",
            "prediction_weight": "FEAT_WEIGHT",
            "initial_variance": "INIT_PRED_VAR",
            "least_variance": "EPS",
        },
    ),
    params=VidParams,
    task=VidTask,
    recipes=_pairs.recipes(pairs=_pairs.CIFAR_PAIRS),
)
