"""Attention transfer: the student's spatial activation maps imitate the teacher's.

Source: Zagoruyko and Komodakis, "Paying more attention to attention", ICLR 2017, with p = 2, and
the mean over elements as in the code released with Tian et al., "Contrastive representation
distillation", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from methods.losses.precision import float32_or_wider
from methods.losses.stages import matched_stages, pooled_to


def attention_map(map_BKHW: Tensor) -> Tensor:
    """Q = a / ||a||_2 with a = mean_k f_k^2 over channels, flattened to [B, P = H W]."""
    return normalize(float32_or_wider(map_BKHW).square().mean(dim=1).flatten(1), dim=1)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """sum_l mean (Q(s_l) - Q(t_l))^2 over matched stages; the larger map is pooled to the smaller.

    Args:
        student: feature maps [B, K, H, W] of the stem and of each stage.
        teacher: the teacher's feature maps; no gradient flows into them.

    Returns:
        A scalar >= 0.
    """
    terms = []
    for s_BKHW, t_BKHW in matched_stages(student, teacher):
        student_map_BP = attention_map(pooled_to(s_BKHW, t_BKHW))
        teacher_map_BP = attention_map(pooled_to(t_BKHW.detach(), s_BKHW))
        terms.append((student_map_BP - teacher_map_BP).square().mean())
    return torch.stack(terms).sum()
