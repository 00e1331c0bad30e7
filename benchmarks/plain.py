"""Plain transcriptions of the losses by the sums as printed, for comparison in benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor


def ikl_loss_pairwise(
    logits_m: Tensor,
    logits_n: Tensor,
    class_weights_BC: Tensor,
    wmse_weight: float,
    ce_weight: float,
) -> Tensor:
    """Eq. 6 of arXiv:2305.13948 through its [B, C, C] tensors, a mean over the batch."""
    delta_m_BCC = logits_m[:, :, None] - logits_m[:, None, :]
    delta_n_BCC = logits_n[:, :, None] - logits_n[:, None, :]
    with torch.no_grad():
        weights_BCC = class_weights_BC[:, :, None] * class_weights_BC[:, None, :]
        labels_BC = logits_m.softmax(-1)
    wmse = ((delta_m_BCC - delta_n_BCC) ** 2 * weights_BCC).sum() / (4 * len(logits_m))
    ce = -(labels_BC * logits_n.log_softmax(-1)).sum(-1).mean()
    return wmse_weight * wmse + ce_weight * ce
