"""DKL: KL decoupled into a weighted MSE and a soft cross-entropy (Cui et al., 2024, Eq. 5)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from harness.method import Batch, Forward, Method, MethodCard, Objective, Params
from methods._papers import cite
from methods._recipes import by_dataset, growing_epsilon
from methods.adversarial._decoupled import DecoupledTask
from methods.losses.divergence import DecoupledParts, dkl_loss, soft_cross_entropy


class DklParams(Params):
    """Weights of the two parts, by default the KL baseline's; equal ones give KL's gradients."""

    wmse_weight: float = Field(9.0, ge=0)
    ce_weight: float = Field(9.0, ge=0)


class DklTask(DecoupledTask):
    """Eq. 5: no gradient of the weighted MSE flows into the adversarial logits."""

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """The soft cross-entropy: the only part of Eq. 5 with a gradient here, equal to KL's."""
        clean_BC = model(batch.x)
        return lambda adv_BC: soft_cross_entropy(clean_BC, adv_BC)

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor) -> DecoupledParts:
        """Eq. 5, unweighted."""
        return dkl_loss(clean_BC, adv_BC)


RECIPES = by_dataset(growing_epsilon)

METHOD = Method(
    card=MethodCard(
        title="DKL",
        family="adversarial",
        summary="Writes the KL divergence as a weighted MSE plus a soft cross-entropy with the "
        "same gradients, so that each part can have its own weight.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \frac{\mathtt{wmse\_weight}}{4} \sum_{j,k} "
            r"\mathcal{S}(s_m^j s_m^k) (\Delta m_{jk} - \mathcal{S}(\Delta n_{jk}))^2 "
            r"- \mathtt{ce\_weight} \sum_j \mathcal{S}(s_m^j) \log s_n^j"
        ),
        **cite("cui2024decoupled"),
        tables=(1,),
        notes=(
            "Row (b) of Table 1 prints no weights. Both are 9 here, the weight of the KL baseline "
            "in row (a), which gives both rows the same gradients.",
            "The values of DKL and KL differ; only their gradients agree.",
            "Small-scale recipes are exactly those of the KL baseline.",
        ),
        released_names={"wmse_weight": "beta", "ce_weight": "alpha"},
    ),
    params=DklParams,
    task=DklTask,
    recipes={**RECIPES, "table1/dkl": RECIPES["cifar100"]},
    recipe_notes={
        "table1/dkl": "The table prints no weights for rows (b) to (d). With equal weights DKL has "
        "the gradients of KL, so row (b) should repeat row (a); it prints 62.54/30.20 against "
        "62.87/30.29."
    },
)
