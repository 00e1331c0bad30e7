"""ReviewKD: fused student maps, from the deepest to the shallowest, imitate the teacher's.

Source: Chen et al., "Distilling knowledge via knowledge review", CVPR 2021. ABF is its attention
based fusion, HCL its hierarchical context loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, mse_loss

from methods.losses.precision import float32_or_wider
from methods.losses.stages import matched_stages

LEVELS = (4, 2, 1)


def hcl_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared errors of maps and of their averages over coarse grids.

    For each pair of maps of side h: [mse(s, t) + sum_k 2^-k mse(pool_k(s), pool_k(t))] / [1 + sum_k
    2^-k] where k = 1, 2, ... counts the grids of side 4, 2 and 1 that are coarser than h.

    Args:
        student: fused maps [B, K, H, W].
        teacher: maps of the same shapes; no gradient flows into them.

    Returns:
        The sum over pairs, a scalar >= 0.
    """
    terms = []
    for s_BKHW, t_BKHW in zip(student, teacher, strict=True):
        s_BKHW = float32_or_wider(s_BKHW)
        t_BKHW = t_BKHW.detach().to(s_BKHW.dtype)
        weight, total = 1.0, 1.0
        loss = mse_loss(s_BKHW, t_BKHW)
        for level in LEVELS:
            if level < s_BKHW.shape[-2]:
                weight /= 2
                total += weight
                coarse_s, coarse_t = (adaptive_avg_pool2d(x, level) for x in (s_BKHW, t_BKHW))
                loss = loss + weight * mse_loss(coarse_s, coarse_t)
        terms.append(loss / total)
    return torch.stack(terms).sum()


class Fusion(nn.Module):
    """ABF: fuse a student's map with the deeper ones and give it the teacher's shape.

    With x = bn(conv1x1(map)) and the residual y from the deeper maps, x becomes a x + b y, where
    (a, b) = sigmoid(conv1x1([x, y])) at each position; the output is bn(conv3x3(x)).
    """

    def __init__(self, channels: int, middle: int, out_channels: int, *, fuses: bool) -> None:
        """Build and initialise.

        Args:
            channels: channels of the student's map.
            middle: number of channels in which maps are fused.
            out_channels: channels of the teacher's map.
            fuses: whether there is a residual; the deepest map has none.
        """
        super().__init__()
        self.reduce = _convolution(channels, middle, 1)
        self.expand = _convolution(middle, out_channels, 3)
        self.attend = nn.Conv2d(2 * middle, 2, 1) if fuses else None

    def forward(
        self, map_BKHW: Tensor, residual: Tensor | None, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the output in the teacher's shape and the residual for the next map.

        Args:
            map_BKHW: the student's map.
            residual: the residual of the deeper map [B, middle, ., .], resized to ``map_BKHW``.
            size: height and width of the teacher's map.
        """
        x_BKHW: Tensor = self.reduce(map_BKHW)
        if self.attend is not None and residual is not None:
            y_BKHW = _resized(residual, x_BKHW.shape[-2:])
            weights_B2HW = self.attend(torch.cat([x_BKHW, y_BKHW], dim=1)).sigmoid()
            x_BKHW = x_BKHW * weights_B2HW[:, :1] + y_BKHW * weights_B2HW[:, 1:]
        x_BKHW = _resized(x_BKHW, size)
        return self.expand(x_BKHW), x_BKHW


def _convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize to another height and width by nearest neighbour."""
    return x if x.shape[-2:] == tuple(size) else interpolate(x, size=tuple(size), mode="nearest")


class ReviewDistillation(nn.Module):
    """A chain of fusions over the matched stages and the pooled features, and the HCL loss."""

    def __init__(
        self,
        student_channels: Sequence[int],
        student_pooled: int,
        teacher_channels: Sequence[int],
        teacher_pooled: int,
        *,
        max_middle: int = 512,
    ) -> None:
        """Build one fusion for each pair of ``matched_stages`` and one for the pooled features.

        Args:
            student_channels: channels of the student's stem and stages.
            student_pooled: length of the student's pooled features.
            teacher_channels: channels of the teacher's stem and stages.
            teacher_pooled: length of the teacher's pooled features.
            max_middle: largest number of channels in which maps are fused; ``student_pooled`` if
                that is smaller.
        """
        super().__init__()
        pairs = [*matched_stages(student_channels, teacher_channels)]
        pairs.append((student_pooled, teacher_pooled))
        middle = min(max_middle, student_pooled)
        deepest = len(pairs) - 1
        self.fusions = nn.ModuleList(
            Fusion(inputs, middle, outputs, fuses=i < deepest)
            for i, (inputs, outputs) in enumerate(pairs)
        )

    def forward(
        self,
        student: Sequence[Tensor],
        student_pooled: Tensor,
        teacher: Sequence[Tensor],
        teacher_pooled: Tensor,
    ) -> Tensor:
        """Return the HCL loss of the fused maps, a scalar >= 0.

        In training B must be at least 2: the pooled features are normalised over the batch.

        Args:
            student: maps [B, K, H, W] of the student's stem and stages.
            student_pooled: its pooled features [B, D].
            teacher: the teacher's maps; no gradient flows into them.
            teacher_pooled: its pooled features.
        """
        pairs = matched_stages(student, teacher)
        pairs.append((student_pooled[:, :, None, None], teacher_pooled[:, :, None, None]))
        outputs: list[Tensor] = []
        residual = None
        for fusion, (s_BKHW, t_BKHW) in reversed([*zip(self.fusions, pairs, strict=True)]):
            output, residual = fusion(s_BKHW, residual, t_BKHW.shape[-2:])
            outputs.insert(0, output)
        return hcl_loss(outputs, [t_BKHW for _, t_BKHW in pairs])
