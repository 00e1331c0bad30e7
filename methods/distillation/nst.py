"""NST: the distribution of channel activations is distilled (Huang and Wang, 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import exact_matmul, float32_or_wider
from methods.losses.stages import matched_stages, pooled_to


def selectivity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """sum_l MMD^2 of the channels' maps, each of length 1, by the kernel k(a, b) = (a . b)^2.

    MMD^2 = mean_kk' k(t_k, t_k') + mean_kk' k(s_k, s_k') - 2 mean_kk' k(s_k, t_k').

    Source: Huang and Wang, "Like what you like: knowledge distill via neuron selectivity transfer",
    2017, Eqs. 4-7, with the polynomial kernel of degree 2 without constant.

    Args:
        student: feature maps [B, K, H, W] of the stem and of each stage; the stem is left out.
        teacher: the teacher's maps; no gradient flows into them. The larger map is pooled to the
            smaller.

    Returns:
        The mean over the batch, a scalar >= 0.
    """
    terms = []
    for s_BKHW, t_BKHW in matched_stages(student, teacher):
        s_BKP = _channels(pooled_to(s_BKHW, t_BKHW))
        t_BLP = _channels(pooled_to(t_BKHW.detach(), s_BKHW))
        pairs = ((t_BLP, t_BLP, 1.0), (s_BKP, s_BKP, 1.0), (s_BKP, t_BLP, -2.0))
        terms += [
            factor * exact_matmul(a, b.transpose(1, 2)).square().mean() for a, b, factor in pairs
        ]
    return torch.stack(terms).sum()


def _channels(map_BKHW: Tensor) -> Tensor:
    return normalize(float32_or_wider(map_BKHW).flatten(2), dim=2)


class NstParams(DistillationParams):
    """The weight of the maps' discrepancy."""

    selectivity_weight: float = Field(50.0, ge=0)


class NstTask(FeatureTask):
    """Maximum mean discrepancy of the channels' maps in all stages."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + selectivity_weight times the discrepancy, summed over stages."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        selectivity = selectivity_loss(student.stages, teacher.stages)
        loss = self.params.label_weight * ce + self.params.selectivity_weight * selectivity
        return StepOutput(loss, detached(ce=ce, selectivity=selectivity))


METHOD = Method(
    card=MethodCard(
        title="NST",
        family="distillation",
        summary="Matches the distribution of the student's channel activation maps to the "
        "teacher's by minimising their maximum mean discrepancy.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{selectivity\_weight} \sum_l "
            r"\left[\mathrm{mean}_{kk'} (t_k^\top t_{k'})^2 + \mathrm{mean}_{kk'} (s_k^\top "
            r"s_{k'})^2 - 2\, \mathrm{mean}_{kk'} (s_k^\top t_{k'})^2\right]"
        ),
        **cite("huang2017like"),
        notes=(
            "The paper transfers the last stage; RepDistiller and mdistiller, which are followed "
            "here, sum over all stages with the weight 50, the same for all pairs.",
            "The kernel is (a . b)^2: the paper's polynomial of degree 2 with constant 0.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "CE_WEIGHT", "selectivity_weight": "FEAT_WEIGHT"},
    ),
    params=NstParams,
    task=NstTask,
    recipes=_pairs.recipes(pairs=_pairs.CIFAR_PAIRS),
)
