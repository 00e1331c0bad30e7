"""What methods share that train on clean images and bind adversarial outputs to clean ones."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.method import Batch, Forward, Objective, Params, StepOutput, Task
from methods.losses.divergence import DecoupledParts, float32_or_wider


class ConsistencyTask(Task):
    """CE(o_m, y) plus weighted terms that bind adversarial logits o_n to clean ones o_m.

    ``label_smoothing`` is the share of the uniform distribution in the labels of CE;
    ``clean_first`` is which of the two BatchNorm batches moves the running statistics first.
    """

    label_smoothing = 0.0
    clean_first = False

    def terms(
        self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """The binding terms of the training loss: name to (weight, unweighted scalar)."""
        raise NotImplementedError

    def attack_divergence(self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor) -> Tensor:
        """The scalar that the inner attack maximises over ``adv_BC``; ``clean_BC`` is constant."""
        raise NotImplementedError

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """Clean logits are computed here, once for all steps of the attack."""
        clean_BC = model(batch.x)
        return lambda adv_BC: self.attack_divergence(clean_BC, adv_BC, batch.y)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """Adversarial images and clean ones, each a BatchNorm batch of its own."""
        if self.clean_first:
            clean_BC = model(batch.x)
            adv_BC = model(batch.adversarial)
        else:
            adv_BC = model(batch.adversarial)
            clean_BC = model(batch.x)
        loss = cross_entropy(
            float32_or_wider(clean_BC), batch.y, label_smoothing=self.label_smoothing
        )
        parts = {"ce": loss.detach()}
        for name, (weight, value) in self.terms(clean_BC, adv_BC, batch.y).items():
            loss = loss + weight * value
            parts[name] = value.detach()
        return StepOutput(loss, parts, {"clean_logits": clean_BC.detach()})


class DecoupledParams(Params):
    """Weights of a decoupled divergence in the training loss."""

    wmse_weight: float = Field(20.0, ge=0)
    ce_weight: float = Field(3.0, ge=0)


class AttackedDecoupledParams(DecoupledParams):
    """Weights in the training loss and in the inner attack's objective."""

    attack_wmse_weight: float = Field(1.0, ge=0)
    attack_ce_weight: float = Field(1.0, ge=0)


class DecoupledTask(ConsistencyTask):
    """A decoupled divergence binds the outputs, and its two parts also drive the attack."""

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor) -> DecoupledParts:
        """The divergence's unweighted parts."""
        raise NotImplementedError

    def terms(
        self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """The weighted MSE and the soft cross-entropy."""
        parts = self.divergence(clean_BC, adv_BC, y_B)
        return {
            "wmse": (self.params.wmse_weight, parts.wmse),
            "soft_ce": (self.params.ce_weight, parts.ce),
        }

    def attack_divergence(self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor) -> Tensor:
        """The same divergence under the attack's own weights."""
        parts = self.divergence(clean_BC, adv_BC, y_B)
        return parts.weighted(self.params.attack_wmse_weight, self.params.attack_ce_weight)


# By the released trainers: the weighted MSE drives the attack on CIFAR-100, not on CIFAR-10. Other
# sets of ten classes follow CIFAR-10.
RELEASED_ATTACK_WEIGHTS = {
    name: {"params": {"attack_wmse_weight": weight}}
    for name, weight in (
        ("digits", 0.0),
        ("fashion-mnist", 0.0),
        ("cifar10", 0.0),
        ("cifar100", 1.0),
    )
}
