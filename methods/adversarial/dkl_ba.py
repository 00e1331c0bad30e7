"""DKL with broken asymmetry: the weighted MSE trains both outputs (Cui et al., 2024, Eq. 8)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from harness.method import Method, MethodCard
from methods._papers import cite
from methods._recipes import by_dataset, growing_epsilon
from methods.adversarial._consistency import (
    RELEASED_ATTACK_WEIGHTS,
    AttackedDecoupledParams,
    DecoupledTask,
)
from methods.losses.divergence import DecoupledParts, dkl_loss


class DklBaParams(AttackedDecoupledParams):
    """The weights of DKL, and the attack's."""

    wmse_weight: float = Field(9.0, ge=0)
    ce_weight: float = Field(9.0, ge=0)


class DklBaTask(DecoupledTask):
    """The weighted MSE sends gradients into clean and adversarial logits."""

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor) -> DecoupledParts:
        """Each sample weighted by its own prediction, no stop gradient on logit differences."""
        return dkl_loss(clean_BC, adv_BC, break_asymmetry=True)


RECIPES = by_dataset(growing_epsilon, RELEASED_ATTACK_WEIGHTS)

METHOD = Method(
    card=MethodCard(
        title="DKL with broken asymmetry",
        family="adversarial",
        summary="DKL whose weighted MSE also trains the adversarial output, so that it works even "
        "where the clean output is held fixed.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \frac{\mathtt{wmse\_weight}}{4} \sum_{j,k} "
            r"\mathcal{S}(s_m^j s_m^k) (\Delta m_{jk} - \Delta n_{jk})^2 "
            r"- \mathtt{ce\_weight} \sum_j \mathcal{S}(s_m^j) \log s_n^j"
        ),
        **cite("cui2024decoupled"),
        tables=(1,),
        notes=(
            "Row (c) of Table 1 prints no weights. They are those of row (b) here, so that one "
            "thing changes between the rows.",
            "Eq. 8 stops the gradient of the clean logit differences because it speaks of a fixed "
            "teacher; in adversarial training Eq. 6 and the released code let it flow, as here.",
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
