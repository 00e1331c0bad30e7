"""Distillation from a teacher's logits: KD, DKD, and the decoupled divergences as KD uses them.

Shape suffixes: B batch, C classes, 1 a kept axis. All take the student's logits first; those of the
teacher take no gradient. Losses are means over the batch, at least in float32.

In the decoupled divergences, as in the released code of Cui et al. (arXiv:2305.13948), the
temperature belongs to the cross-entropy alone and no T^2 makes up for it; the weighted MSE compares
raw logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softmax

from methods.losses.divergence import (
    DecoupledParts,
    float32_or_wider,
    kl_divergence,
    soft_cross_entropy,
    weighted_mse,
    weighted_mse_per_sample,
)


class TargetParts(NamedTuple):
    """The two parts of DKD, unweighted scalars >= 0.

    Attributes:
        target: TCKD, on the target class against all the others together.
        non_target: NCKD, among the others.
    """

    target: Tensor
    non_target: Tensor

    def weighted(self, target_weight: float, non_target_weight: float) -> Tensor:
        """The loss with its two weights, the paper's alpha and beta."""
        return target_weight * self.target + non_target_weight * self.non_target


def kd_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)).

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015.

    Args:
        student_BC: logits [B, C].
        teacher_BC: logits [B, C].
        temperature: T > 0.

    Returns:
        The mean over the batch, a scalar >= 0.
    """
    softened_t = float32_or_wider(teacher_BC.detach()) / temperature
    softened_s = float32_or_wider(student_BC) / temperature
    return temperature**2 * kl_divergence(softened_t, softened_s)


def dkd_loss(
    student_BC: Tensor, teacher_BC: Tensor, labels_B: Tensor, temperature: float
) -> TargetParts:
    """KD decoupled into the target class and the rest.

    With p = softmax(. / T) and b = (p_y, 1 - p_y), TCKD = T^2 KL(b_t || b_s), and NCKD = T^2
    KL(q_t || q_s) of the softmax q over the C - 1 other classes. With two classes NCKD is zero.

    Source: Zhao et al., "Decoupled knowledge distillation", CVPR 2022, Eq. 7.

    Args:
        student_BC: logits [B, C], C >= 2.
        teacher_BC: logits [B, C].
        labels_B: classes, int64 in [0, C).
        temperature: T > 0.

    Returns:
        The unweighted parts, means over the batch.
    """
    student = _split_target(float32_or_wider(student_BC) / temperature, labels_B)
    teacher = _split_target(float32_or_wider(teacher_BC.detach()) / temperature, labels_B)
    target, non_target = (
        temperature**2 * kl_divergence(t, s) for t, s in zip(teacher, student, strict=True)
    )
    return TargetParts(target, non_target)


def _split_target(logits_BC: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of (the target, all others together), [B, 2], and of the others, [B, C - 1]."""
    labels_B1 = labels_B.unsqueeze(1)
    others = torch.arange(logits_BC.shape[1] - 1, device=logits_BC.device)
    others_BC = logits_BC.gather(1, others + (others >= labels_B1))
    together_B1 = others_BC.logsumexp(dim=1, keepdim=True)
    return torch.cat([logits_BC.gather(1, labels_B1), together_B1], dim=1), others_BC


def sample_weights(teacher_BC: Tensor, temperature: float) -> Tensor:
    """Class weights w = softmax(t / T) of each sample's own prediction, [B, C].

    The alternative, the mean prediction of each sample's class, is ``ClassMeans.of``.

    Args:
        teacher_BC: logits [B, C].
        temperature: T > 0; far above the logits' spread, weights are nearly uniform.
    """
    return softmax(float32_or_wider(teacher_BC.detach()) / temperature, dim=-1)


def ikl_kd_loss(
    student_BC: Tensor, teacher_BC: Tensor, weights_BC: Tensor, temperature: float
) -> DecoupledParts:
    """The improved KL divergence for distillation.

    wMSE = mean_B 1/4 sum_jk w_j w_k (Delta t_jk - Delta s_jk)^2 on raw logits, with gradients into
    the student; CE = -mean_B sum_j softmax(t / T)_j log softmax(s / T)_j.

    Args:
        student_BC: logits [B, C].
        teacher_BC: logits [B, C].
        weights_BC: class weights w >= 0 whose rows sum to one, [B, C]; see ``sample_weights``.
        temperature: T > 0 of the cross-entropy.

    Returns:
        The unweighted parts.
    """
    return DecoupledParts(
        wmse=weighted_mse(teacher_BC.detach(), student_BC, weights_BC),
        ce=_softened_cross_entropy(student_BC, teacher_BC, temperature),
    )


def dkl_kd_loss(
    student_BC: Tensor, teacher_BC: Tensor, weights_BC: Tensor, temperature: float
) -> DecoupledParts:
    """The decoupled KL divergence for distillation, its asymmetry kept.

    The values are those of ``ikl_kd_loss``. The weighted MSE's gradient belongs to the teacher
    alone, which is fixed, so that this part trains nothing (Eq. 7 of the paper).
    """
    return DecoupledParts(
        wmse=weighted_mse(teacher_BC.detach(), student_BC.detach(), weights_BC),
        ce=_softened_cross_entropy(student_BC, teacher_BC, temperature),
    )


def gkl_kd_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    weights_BC: Tensor,
    temperature: float,
    power: float,
) -> DecoupledParts:
    """The generalised KL divergence for distillation.

    With q = w^power and S_i = sum_j q_ij the weighted MSE is the one ratio
    sum_i 1/4 sum_jk q_ij q_ik (Delta t_jk - Delta s_jk)^2 / sum_i S_i^2 over the whole batch.

    Args:
        student_BC: logits [B, C].
        teacher_BC: logits [B, C].
        weights_BC: as for ``ikl_kd_loss``.
        temperature: T > 0 of the cross-entropy.
        power: exponent of the weights, in [0, 1]; at 0 they are uniform, at 1 it is IKL.

    Returns:
        The unweighted parts.
    """
    powers_BC = weights_BC.detach().to(float32_or_wider(student_BC).dtype).pow(power)
    per_sample_B = weighted_mse_per_sample(teacher_BC.detach(), student_BC, powers_BC)
    return DecoupledParts(
        wmse=per_sample_B.sum() / powers_BC.sum(-1).square().sum(),
        ce=_softened_cross_entropy(student_BC, teacher_BC, temperature),
    )


def _softened_cross_entropy(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    return soft_cross_entropy(
        float32_or_wider(teacher_BC) / temperature, float32_or_wider(student_BC) / temperature
    )
