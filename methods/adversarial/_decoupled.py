"""Settings that the decoupled divergences share in adversarial training."""

from __future__ import annotations

from pydantic import Field

from harness.method import Params
from methods._recipes import DATASETS


class DecoupledParams(Params):
    """Weights of the two parts in the training loss and in the objective of the inner attack."""

    wmse_weight: float = Field(20.0, ge=0)
    ce_weight: float = Field(3.0, ge=0)
    attack_wmse_weight: float = Field(1.0, ge=0)
    attack_ce_weight: float = Field(1.0, ge=0)


# In the released trainers the weighted MSE drives the attack on CIFAR-100, not on CIFAR-10. Other
# datasets of ten classes follow CIFAR-10.
RELEASED_ATTACK_WEIGHTS = {
    dataset: {"params": {"attack_wmse_weight": 1.0 if dataset == "cifar100" else 0.0}}
    for dataset in DATASETS
}
