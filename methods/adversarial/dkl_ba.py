"""DKL with broken asymmetry: the weighted MSE trains both outputs (Cui et al., 2024, Eq. 8)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from harness.method import Method, MethodCard
from methods._papers import cite
from methods._recipes import by_dataset, growing_epsilon
from methods.adversarial._decoupled import RELEASED_ATTACK_WEIGHTS, DecoupledParams, DecoupledTask
from methods.losses.divergence import DecoupledParts, dkl_loss


class DklBaParams(DecoupledParams):
    """The weights of DKL, and those of the attack."""

    wmse_weight: float = Field(9.0, ge=0)
    ce_weight: float = Field(9.0, ge=0)


class DklBaTask(DecoupledTask):
    """The gradient of the weighted MSE flows into both clean and adversarial logits."""

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor) -> DecoupledParts:
        """Eq. 5 with gradients of the weighted MSE into both arguments, unweighted."""
        return dkl_loss(clean_BC, adv_BC, break_asymmetry=True)


RECIPES = by_dataset(growing_epsilon, RELEASED_ATTACK_WEIGHTS)

METHOD = Method(
    card=MethodCard(
        title="DKL with broken asymmetry",
        family="adversarial",
        summary="DKL in which the weighted MSE also trains the adversarial output, so that it has "
        "an effect even if the clean output is fixed.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \frac{\mathtt{wmse\_weight}}{4} \sum_{j,k} "
            r"\mathcal{S}(s_m^j s_m^k) (\Delta m_{jk} - \Delta n_{jk})^2 "
            r"- \mathtt{ce\_weight} \sum_j \mathcal{S}(s_m^j) \log s_n^j"
        ),
        **cite("cui2024decoupled"),
        tables=(1,),
        notes=(
            "Row (c) of Table 1 prints no weights. Here they are those of row (b), so that only "
            "one thing changes between the rows.",
            "Eq. 8 stops the gradient of the clean logit differences, since its teacher is fixed. "
            "In adversarial training Eq. 6 and the released code let it flow, as here.",
            "Attack weights follow the released IKL trainers: the weighted MSE drives the attack "
            "on CIFAR-100 only.",
        ),
        released_names={"wmse_weight": "beta", "ce_weight": "alpha"},
    ),
    params=DklBaParams,
    task=DklBaTask,
    recipes={**RECIPES, "table1/dkl-ba": RECIPES["cifar100"]},
    recipe_notes={
        "table1/dkl-ba": "The table prints no weights for rows (b) to (d); those of the KL "
        "baseline are kept, so that only the broken asymmetry changes from row (b)."
    },
)
