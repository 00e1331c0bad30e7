"""Divergences between two softmax outputs: KL, decoupled KL, improved KL, generalised KL.

Equation numbers are those of Cui et al., Decoupled Kullback-Leibler Divergence Loss,
arXiv:2305.13948. Its pairwise sums over C x C logit differences are computed in O(C): with
d = o_m - o_n, S = sum_j w_j and mu = sum_j w_j d_j / S,

    1/4 sum_jk w_j w_k (d_j - d_k)^2 = S/2 sum_j w_j (d_j - mu)^2.

Shape suffixes: B batch, C classes, 1 a kept axis. ``logits_m`` are the reference's logits o_m
(clean images, the teacher), ``logits_n`` those compared with it (adversarial images, the student).
Losses are means over the batch, in float32 or wider whatever the precision of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from methods.losses.precision import float32_or_wider


class DecoupledParts(NamedTuple):
    """The two parts of a decoupled divergence, unweighted scalars.

    Attributes:
        wmse: the weighted mean square error, without the paper's alpha.
        ce: the cross-entropy with soft labels, without the paper's beta.
    """

    wmse: Tensor
    ce: Tensor

    def weighted(self, wmse_weight: float, ce_weight: float) -> Tensor:
        """The divergence with its two weights, the paper's alpha and beta."""
        return wmse_weight * self.wmse + ce_weight * self.ce


def kl_per_sample(logits_m: Tensor, logits_n: Tensor) -> Tensor:
    """KL(softmax(o_m) || softmax(o_n)), Eq. 2, with gradients into both arguments.

    Args:
        logits_m: the reference's logits [B, C].
        logits_n: logits [B, C].

    Returns:
        Values >= 0, [B].
    """
    log_m_BC = log_softmax(float32_or_wider(logits_m), dim=-1)
    log_n_BC = log_softmax(float32_or_wider(logits_n), dim=-1)
    return (log_m_BC.exp() * (log_m_BC - log_n_BC)).sum(-1)


def kl_divergence(logits_m: Tensor, logits_n: Tensor) -> Tensor:
    """The batch mean of ``kl_per_sample``, a scalar >= 0."""
    return kl_per_sample(logits_m, logits_n).mean()


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    """Mean divergence of V predictions from their mean: mean_v KL(s_v || mean_u s_u).

    Args:
        logits: V tensors [B, C].

    Returns:
        The mean over the batch, a scalar in [0, log V]; gradients flow into all.
    """
    log_VBC = torch.stack([log_softmax(float32_or_wider(each), dim=-1) for each in logits])
    log_mean_BC = log_VBC.logsumexp(0) - math.log(len(log_VBC))
    return (log_VBC.exp() * (log_VBC - log_mean_BC)).sum(2).mean()


def soft_cross_entropy(logits_m: Tensor, logits_n: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of softmax(o_n / T) with soft labels softmax(o_m / T): second part of Eq. 5.

    Args:
        logits_m: logits [B, C] of the soft labels; no gradient flows into them.
        logits_n: logits [B, C].
        temperature: T > 0; the loss is not multiplied by T^2.

    Returns:
        The mean over the batch, a scalar >= 0.
    """
    labels_BC = softmax(float32_or_wider(logits_m.detach()) / temperature, dim=-1)
    log_n_BC = log_softmax(float32_or_wider(logits_n) / temperature, dim=-1)
    return -(labels_BC * log_n_BC).sum(-1).mean()


def weighted_mse_per_sample(logits_m: Tensor, logits_n: Tensor, weights_BC: Tensor) -> Tensor:
    """1/4 sum_jk w_j w_k (Delta m_jk - Delta n_jk)^2 for each sample: the first part of Eq. 5.

    Exact for any weights >= 0, including weights that do not sum to one.

    Args:
        logits_m: logits [B, C].
        logits_n: logits [B, C].
        weights_BC: class weights w >= 0, broadcastable to [B, C]; no gradient flows into them.

    Returns:
        Values >= 0, [B].
    """
    delta_BC = float32_or_wider(logits_m) - float32_or_wider(logits_n)
    weights_BC = weights_BC.detach().to(delta_BC.dtype).expand_as(delta_BC)
    sum_B1 = weights_BC.sum(-1, keepdim=True)
    # The floor matters only for rows whose weights are all zero; their loss is zero.
    floor = torch.finfo(sum_B1.dtype).tiny
    mean_B1 = (weights_BC * delta_BC).sum(-1, keepdim=True) / sum_B1.clamp_min(floor)
    # Centre before squaring: the mean of squares minus the squared mean would cancel.
    variance_B = (weights_BC * (delta_BC - mean_B1).square()).sum(-1)
    return 0.5 * sum_B1.squeeze(-1) * variance_B


def weighted_mse(logits_m: Tensor, logits_n: Tensor, weights_BC: Tensor) -> Tensor:
    """The batch mean of ``weighted_mse_per_sample``, a scalar >= 0."""
    return weighted_mse_per_sample(logits_m, logits_n, weights_BC).mean()


def dkl_loss(
    logits_m: Tensor, logits_n: Tensor, *, break_asymmetry: bool = False
) -> DecoupledParts:
    """The decoupled KL divergence, Eq. 5, whose gradients at weights 1, 1 are those of KL.

    Its values differ from those of KL. Each sample is weighted by its own softmax(o_m), Eq. 9.

    Args:
        logits_m: the reference's logits [B, C].
        logits_n: logits [B, C].
        break_asymmetry: let the weighted MSE's gradient flow into ``logits_n`` too. If ``logits_m``
            are detached, the weighted MSE then still has a gradient (Eq. 8); otherwise it has none
            (Eq. 7).

    Returns:
        The unweighted parts, means over the batch.
    """
    weights_BC = softmax(float32_or_wider(logits_m.detach()), dim=-1)
    compared_BC = logits_n if break_asymmetry else logits_n.detach()
    return DecoupledParts(
        wmse=weighted_mse(logits_m, compared_BC, weights_BC),
        ce=soft_cross_entropy(logits_m, logits_n),
    )


def ikl_loss(
    logits_m: Tensor, logits_n: Tensor, class_weights_BC: Tensor, *, temperature: float = 1.0
) -> DecoupledParts:
    """The improved KL divergence, Eq. 6, with broken asymmetry and class-wise weights.

    Args:
        logits_m: the reference's logits [B, C].
        logits_n: logits [B, C].
        class_weights_BC: the mean prediction s_y of each sample's class, Eq. 10: [B, C], >= 0, rows
            summing to one. No gradient flows into it.
        temperature: T > 0 of the cross-entropy. As in the released distillation code, the weighted
            MSE compares raw logits.

    Returns:
        The unweighted parts, means over the batch.
    """
    return DecoupledParts(
        wmse=weighted_mse(logits_m, logits_n, class_weights_BC),
        ce=soft_cross_entropy(logits_m, logits_n, temperature),
    )


def gkl_loss(
    logits_m: Tensor,
    logits_n: Tensor,
    class_weights_BC: Tensor,
    power: float,
    *,
    temperature: float = 1.0,
) -> DecoupledParts:
    """The generalised KL divergence: class weights raised to a power, normalised over the batch.

    With q = w^power and S_i = sum_j q_ij the weighted MSE is
    sum_i 1/4 sum_jk q_ij q_ik (Delta m_jk - Delta n_jk)^2 / sum_i S_i^2. At power 1 it is IKL;
    below 1, samples with flatter class weights count for more.

    Args:
        logits_m: the reference's logits [B, C].
        logits_n: logits [B, C].
        class_weights_BC: as for ``ikl_loss``.
        power: exponent of the class weights, in [0, 1]; at 0 they are uniform.
        temperature: as for ``ikl_loss``.

    Returns:
        The unweighted parts: ``wmse`` is a ratio of batch sums, ``ce`` a mean over the batch.
    """
    dtype = float32_or_wider(logits_m).dtype
    weights_BC = class_weights_BC.detach().to(dtype).pow(power)
    per_sample_B = weighted_mse_per_sample(logits_m, logits_n, weights_BC)
    return DecoupledParts(
        wmse=per_sample_B.sum() / weights_BC.sum(-1).square().sum(),
        ce=soft_cross_entropy(logits_m, logits_n, temperature),
    )
