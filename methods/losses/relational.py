"""Relational distillation: distances and angles between a batch's embeddings.

Source: Park et al., "Relational knowledge distillation", CVPR 2019, Eqs. 6-10. As in its released
code, the loss is Huber's, and means include the zeros of a point with itself.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from methods.losses.precision import exact_matmul, float32_or_wider

# Embeddings whose squared distance is below this count as one point, without a gradient.
SMALLEST_SQUARE = 1e-12


class RelationalParts(NamedTuple):
    """The two parts of relational distillation, unweighted scalars >= 0.

    Attributes:
        distance: mean_ij huber(d_ij(s) - d_ij(t)), d in units of the batch's mean distance.
        angle: mean_ijk huber(a_ijk(s) - a_ijk(t)), a the cosine of the angle at i between j and k.
    """

    distance: Tensor
    angle: Tensor


def rkd_loss(student_BD: Tensor, teacher_BE: Tensor) -> RelationalParts:
    """Compare the relations in a batch; this needs memory for B x B x (B + D + E) numbers.

    Args:
        student_BD: embeddings [B, D].
        teacher_BE: embeddings [B, E]; no gradient flows into them.

    Returns:
        The unweighted parts.
    """
    student_distances_BB, student_cosines_BBB = _relations(student_BD)
    teacher_distances_BB, teacher_cosines_BBB = _relations(teacher_BE.detach())
    return RelationalParts(
        distance=smooth_l1_loss(student_distances_BB, teacher_distances_BB),
        angle=smooth_l1_loss(student_cosines_BBB, teacher_cosines_BBB),
    )


def _relations(points_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [B, B] in units of their mean, and cosines [B, B, B]."""
    points_BD = float32_or_wider(points_BD)
    # With inner products, close points would lose their distance to rounding.
    arms_BBD = points_BD.unsqueeze(0) - points_BD.unsqueeze(1)
    lengths_BB = arms_BBD.square().sum(-1).clamp_min(SMALLEST_SQUARE).sqrt()
    units_BBD = arms_BBD / lengths_BB.unsqueeze(-1)
    cosines_BBB = exact_matmul(units_BBD, units_BBD.transpose(1, 2))

    distances_BB = lengths_BB - lengths_BB.diagonal().diag_embed()
    pairs = len(points_BD) * (len(points_BD) - 1)
    # The floor matters only for a batch of one, which has no distances and a loss of zero.
    scale = pairs / distances_BB.sum().clamp_min(SMALLEST_SQUARE)
    return distances_BB * scale, cosines_BBB
