"""The losses as functions and as modules, for any training loop; they need only torch.

Functions return the unweighted parts of a loss; modules hold the weights and return one scalar.
Every module takes logits [B, C] of any float type and computes in float32 or wider.

In DKL, IKL and GKL the reference comes first, as in the paper: ``logits_m`` are the logits o_m of
the clean images or of the teacher, ``logits_n`` those of the adversarial images or of the student.
Detach ``logits_m`` if it must not receive gradients, as in distillation. KD and DKD take the
student first, and no gradient flows into the teacher.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from methods.losses.class_means import ClassMeans
from methods.losses.divergence import DecoupledParts, dkl_loss, gkl_loss, ikl_loss, kl_divergence
from methods.losses.logits import TargetParts, dkd_loss, kd_loss

__all__ = [
    "ClassMeans",
    "DKDLoss",
    "DKLLoss",
    "DecoupledParts",
    "GKLLoss",
    "IKLLoss",
    "KDLoss",
    "TargetParts",
    "dkd_loss",
    "dkl_loss",
    "gkl_loss",
    "ikl_loss",
    "kd_loss",
    "kl_divergence",
]


class DKLLoss(nn.Module):
    """The decoupled KL divergence, Eq. 5: wmse_weight * wMSE + ce_weight * CE.

    With weights 1, 1 its gradients equal those of KL; its values do not.

    Args:
        wmse_weight: weight of the weighted MSE, the paper's alpha.
        ce_weight: weight of the soft cross-entropy, the paper's beta.
        break_asymmetry: let the gradient of the weighted MSE flow into ``logits_n`` too, Eq. 8.
    """

    def __init__(
        self, wmse_weight: float = 1.0, ce_weight: float = 1.0, *, break_asymmetry: bool = False
    ) -> None:
        """See the class."""
        super().__init__()
        self.wmse_weight = wmse_weight
        self.ce_weight = ce_weight
        self.break_asymmetry = break_asymmetry

    def forward(self, logits_m: Tensor, logits_n: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar, for logits [B, C]."""
        parts = dkl_loss(logits_m, logits_n, break_asymmetry=self.break_asymmetry)
        return parts.weighted(self.wmse_weight, self.ce_weight)


class IKLLoss(nn.Module):
    """The improved KL divergence, Eq. 6, with class means that it accumulates itself, Eq. 10.

    Class means are uniform in the first epoch and those of the previous epoch afterwards. They are
    buffers, so ``state_dict()`` includes them. Call ``end_epoch()`` after each epoch.

    Args:
        num_classes: C.
        wmse_weight: weight of the weighted MSE, the paper's alpha.
        ce_weight: weight of the soft cross-entropy, the paper's beta.
        temperature: temperature of the predictions in the class means, the paper's tau.
    """

    def __init__(
        self,
        num_classes: int,
        wmse_weight: float = 20.0,
        ce_weight: float = 3.0,
        temperature: float = 4.0,
    ) -> None:
        """See the class."""
        super().__init__()
        self.wmse_weight = wmse_weight
        self.ce_weight = ce_weight
        self.class_means = ClassMeans(num_classes, temperature=temperature)

    def parts(self, logits_m: Tensor, logits_n: Tensor, labels: Tensor) -> DecoupledParts:
        """Return the unweighted parts without updating the class means."""
        return ikl_loss(logits_m, logits_n, self.class_means.of(labels))

    def forward(self, logits_m: Tensor, logits_n: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar.

        In training mode the predictions softmax(o_m / temperature) are added to the class means of
        the next epoch. In eval mode they are not: call ``eval()`` while an inner attack maximises
        the loss.

        Args:
            logits_m: logits [B, C] of the clean images or of the teacher.
            logits_n: logits [B, C] of the adversarial images or of the student.
            labels: classes [B], int64 in [0, C).
        """
        loss = self.parts(logits_m, logits_n, labels).weighted(self.wmse_weight, self.ce_weight)
        if self.training:
            self.class_means.update(logits_m.detach(), labels)
        return loss

    def end_epoch(self) -> None:
        """Start using the class means of this epoch; call this after each epoch.

        If ``torch.distributed`` is initialised, the predictions of all processes are summed first,
        so that every process has the same class means.
        """
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.class_means.sums_CC)
        self.class_means.end_epoch()


class GKLLoss(IKLLoss):
    """The generalised KL divergence (Cui et al., TPAMI 2026, arXiv:2503.08038).

    Like ``IKLLoss``, but with class weights raised to ``power`` and normalised over the batch.

    Args:
        num_classes: C.
        wmse_weight: weight of the weighted MSE.
        ce_weight: weight of the soft cross-entropy.
        temperature: temperature of the predictions in the class means.
        power: exponent of the class weights, in [0, 1]; at 1 the loss is ``IKLLoss``.
    """

    def __init__(
        self,
        num_classes: int,
        wmse_weight: float = 20.0,
        ce_weight: float = 3.0,
        temperature: float = 4.0,
        power: float = 0.2,
    ) -> None:
        """See the class."""
        super().__init__(num_classes, wmse_weight, ce_weight, temperature)
        self.power = power

    def parts(self, logits_m: Tensor, logits_n: Tensor, labels: Tensor) -> DecoupledParts:
        """See ``IKLLoss``."""
        return gkl_loss(logits_m, logits_n, self.class_means.of(labels), self.power)


class KDLoss(nn.Module):
    """Hinton's distillation: T^2 KL(softmax(t / T) || softmax(s / T)).

    Args:
        temperature: T > 0.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        """See the class."""
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; ``teacher`` [B, C] receives no gradient."""
        return kd_loss(student, teacher, self.temperature)


class DKDLoss(nn.Module):
    """Decoupled knowledge distillation (Zhao et al., 2022, Eq. 7).

    Args:
        target_weight: weight of the target class against all others, the paper's alpha.
        non_target_weight: weight among the other classes, the paper's beta.
        temperature: T > 0.
    """

    def __init__(
        self, target_weight: float = 1.0, non_target_weight: float = 8.0, temperature: float = 4.0
    ) -> None:
        """See the class."""
        super().__init__()
        self.target_weight = target_weight
        self.non_target_weight = non_target_weight
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; labels are int64 [B].

        ``teacher`` [B, C] receives no gradient.
        """
        parts = dkd_loss(student, teacher, labels, self.temperature)
        return parts.weighted(self.target_weight, self.non_target_weight)
