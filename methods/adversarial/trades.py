"""TRADES: clean cross-entropy plus KL between the two predictions (Zhang et al., 2019)."""

from __future__ import annotations

from pydantic import Field

from harness.method import Batch, Forward, Method, MethodCard, Objective, Params, StepOutput, Task
from methods._papers import cite
from methods._recipes import by_dataset, trades_training
from methods._steps import detached
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import kl_divergence

FORMULA = (
    r"\mathrm{CE}(o_m, y) + \mathtt{kl\_weight}\, D_{\mathrm{KL}}(s_m \,\|\, s_n), \quad "
    r"x_n = \arg\max_{\|x' - x_m\|_\infty \le \epsilon} D_{\mathrm{KL}}(s_m \,\|\, s(x'))"
)


class TradesParams(Params):
    """The weight of the divergence, one over the paper's lambda."""

    kl_weight: float = Field(6.0, ge=0)


class TradesTask(Task):
    """KL ties adversarial predictions to clean ones, with gradients into both."""

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """KL(s_m || s_n); clean logits are computed once for all steps."""
        clean_BC = model(batch.x)
        return lambda adv_BC: kl_divergence(clean_BC, adv_BC)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_m, y) + kl_weight KL(s_m || s_n); adversarial images go first."""
        adv_BC, clean_BC = model(batch.adversarial), model(batch.x)
        ce, kl = label_cross_entropy(clean_BC, batch.targets), kl_divergence(clean_BC, adv_BC)
        return StepOutput(ce + self.params.kl_weight * kl, detached(ce=ce, kl=kl))


METHOD = Method(
    card=MethodCard(
        title="TRADES",
        family="adversarial",
        summary="Trades clean accuracy for robustness by penalising the KL divergence between the "
        "predictions on clean and on adversarial images.",
        formula=FORMULA,
        **cite("zhang2019theoretically"),
        notes=(
            "The released radius is 0.031, a little less than 8/255; evaluation is at 8/255.",
            "The released loss computes the clean logits twice, which only updates BatchNorm's "
            "running statistics once more; here they are computed once.",
            "The released settings are for CIFAR-10; the CIFAR-100 recipe uses them too.",
        ),
        released_names={"kl_weight": "beta"},
    ),
    params=TradesParams,
    task=TradesTask,
    recipes=by_dataset(trades_training),
)
