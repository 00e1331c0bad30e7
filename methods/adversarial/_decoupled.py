"""What the decoupled divergences share in adversarial training."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from harness.method import Batch, Forward, Objective, Params, StepOutput, Task
from methods._recipes import DATASETS
from methods._steps import detached
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import DecoupledParts


class DecoupledParams(Params):
    """Weights of the two parts in the training loss and in the objective of the inner attack."""

    wmse_weight: float = Field(20.0, ge=0)
    ce_weight: float = Field(3.0, ge=0)
    attack_wmse_weight: float = Field(1.0, ge=0)
    attack_ce_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _attack_has_a_gradient(self) -> Self:
        if not self.attack_wmse_weight and not self.attack_ce_weight:
            raise ValueError(
                "attack_wmse_weight and attack_ce_weight are both 0, so the attack would have no "
                "gradient: make one of them larger"
            )
        return self


class DecoupledTask(Task):
    """Clean cross-entropy plus a divergence in two parts, which also drives the attack."""

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor) -> DecoupledParts:
        """The two parts, unweighted."""
        raise NotImplementedError

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """The same divergence with the attack's weights."""
        clean_BC = model(batch.x)
        weights = self.params.attack_wmse_weight, self.params.attack_ce_weight
        return lambda adv_BC: self.divergence(clean_BC, adv_BC).weighted(*weights)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_m, y) + wmse_weight wMSE + ce_weight soft CE; adversarial images go first."""
        adv_BC, clean_BC = model(batch.adversarial), model(batch.x)
        ce = label_cross_entropy(clean_BC, batch.targets)
        wmse, soft_ce = self.divergence(clean_BC, adv_BC)
        loss = ce + self.params.wmse_weight * wmse + self.params.ce_weight * soft_ce
        return StepOutput(loss, detached(ce=ce, wmse=wmse, soft_ce=soft_ce))


# In the released trainers the weighted MSE drives the attack on CIFAR-100, not on CIFAR-10. Other
# datasets of ten classes follow CIFAR-10.
RELEASED_ATTACK_WEIGHTS = {
    dataset: {"params": {"attack_wmse_weight": 1.0 if dataset == "cifar100" else 0.0}}
    for dataset in DATASETS
}
