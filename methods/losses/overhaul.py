"""OFD: the student's pre-activation maps imitate the teacher's.

Source: Heo et al., "A comprehensive overhaul of feature distillation", ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.losses.precision import float32_or_wider
from methods.losses.stages import matched_stages, pooled_to

# The mean negative value is ill-conditioned for a channel that is negative less often than this.
RARE = 1e-3


def negative_margins(norm: nn.BatchNorm2d) -> Tensor:
    """E[x | x < 0] of each channel for x ~ N(bias, weight^2), its values after the BatchNorm.

    It is mu - s phi(mu / s) / Phi(-mu / s), or -3 s where P(x < 0) <= 0.001.

    Returns:
        Margins [K] <= 0 without gradient.
    """
    mean_K = norm.bias.detach().double()
    std_K = norm.weight.detach().double().abs()
    # A constant channel has no tail: a tiny spread gives the limit.
    z_K = mean_K / std_K.clamp_min(torch.finfo(torch.float32).tiny)
    negative_K = torch.special.ndtr(-z_K)
    density_K = (-z_K.square() / 2).exp() / math.sqrt(2 * math.pi)
    truncated_K = mean_K - std_K * density_K / negative_K.clamp_min(RARE)
    margins_K = torch.where(negative_K > RARE, truncated_K, -3 * std_K)
    return margins_K.to(norm.weight.dtype)


def partial_l2(student_BKHW: Tensor, teacher_BKHW: Tensor, margins_K: Tensor) -> Tensor:
    """Squared distance from max(t, m), counted where t > 0 or the student is above it.

    That is, (s - t)^2 where t > 0. Otherwise, with u = max(t, m), it is (s - u)^2 where s > u and
    zero where s <= u, since the activation hides how negative a value is.

    Args:
        student_BKHW: the student's pre-activation map, in the teacher's channels.
        teacher_BKHW: the teacher's map of the same shape; no gradient flows into it.
        margins_K: m <= 0 of each channel.

    Returns:
        The sum over channels and space, averaged over the batch, a scalar >= 0.
    """
    student_BKHW = float32_or_wider(student_BKHW)
    margins_K11 = margins_K.to(student_BKHW.dtype).view(-1, 1, 1)
    goal_BKHW = teacher_BKHW.detach().to(student_BKHW.dtype).maximum(margins_K11)
    excess_BKHW = student_BKHW - goal_BKHW
    counted_BKHW = torch.where(goal_BKHW > 0, excess_BKHW, excess_BKHW.clamp_min(0))
    return counted_BKHW.square().sum() / len(student_BKHW)


class OverhaulStage(nn.Module):
    """One stage: a connector from the student's channels to the teacher's, and its partial L2."""

    margins_K: Tensor

    def __init__(self, student_channels: int, norm: nn.BatchNorm2d) -> None:
        """Build the connector: 1x1 convolution without bias, from N(0, 2 / out), and BatchNorm.

        Args:
            student_channels: channels of the student's map.
            norm: the teacher's BatchNorm before the activation.
        """
        super().__init__()
        outputs = norm.num_features
        convolution = nn.Conv2d(student_channels, outputs, 1, bias=False)
        nn.init.normal_(convolution.weight, std=math.sqrt(2 / outputs))
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
        self.register_buffer("margins_K", negative_margins(norm))

    def forward(self, student_BKHW: Tensor, teacher_BKHW: Tensor) -> Tensor:
        """Return the partial L2, a scalar >= 0; the larger map is pooled to the smaller."""
        connected = self.connector(pooled_to(student_BKHW, teacher_BKHW))
        return partial_l2(connected, pooled_to(teacher_BKHW, student_BKHW), self.margins_K)


class OverhaulDistillation(nn.Module):
    """sum_l 2^-(n - 1 - l) loss_l over stages l = 0 to n - 1: each counts half of the next."""

    def __init__(
        self, student_channels: Sequence[int], teacher_norms: Sequence[nn.BatchNorm2d]
    ) -> None:
        """Build one connector for each pair of ``matched_stages``.

        Args:
            student_channels: channels of the student's stem and stages.
            teacher_norms: the teacher's ``batchnorm_before_relu()``.
        """
        super().__init__()
        pairs = matched_stages(student_channels, teacher_norms)
        self.stages = nn.ModuleList(OverhaulStage(*pair) for pair in pairs)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the loss of both models' ``Features.preacts``, a scalar >= 0."""
        losses = [
            stage(*maps)
            for stage, maps in zip(self.stages, matched_stages(student, teacher), strict=True)
        ]
        return torch.stack(
            [loss / 2 ** (len(losses) - 1 - i) for i, loss in enumerate(losses)]
        ).sum()
