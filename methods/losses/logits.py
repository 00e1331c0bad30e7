"""Distillation from a teacher's logits: KD, DKD, and class weights from the teacher.

Shape suffixes: B batch, C classes, 1 a kept axis. No gradient flows into the teacher's logits.
Losses are means over the batch, in float32 or wider. The losses of IKL, DKL and GKL are in
``methods.losses.divergence``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softmax

from methods.losses.divergence import kl_divergence
from methods.losses.precision import float32_or_wider


class TargetParts(NamedTuple):
    """The two parts of DKD, unweighted scalars >= 0.

    Attributes:
        target: TCKD, between the target class and all others together.
        non_target: NCKD, among the other classes.
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
    soft_teacher_BC = float32_or_wider(teacher_BC.detach()) / temperature
    soft_student_BC = float32_or_wider(student_BC) / temperature
    return temperature**2 * kl_divergence(soft_teacher_BC, soft_student_BC)


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
        temperature: T > 0; if it is far above the logits' spread, weights are nearly uniform.
    """
    return softmax(float32_or_wider(teacher_BC.detach()) / temperature, dim=-1)
