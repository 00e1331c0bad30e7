"""DKL with broken asymmetry and one constant weight for all classes (Table 1, row d)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from harness.method import Method, MethodCard
from methods._papers import cite
from methods._recipes import by_dataset, growing_epsilon
from methods.adversarial._decoupled import RELEASED_ATTACK_WEIGHTS, DecoupledParams, DecoupledTask
from methods.losses.divergence import DecoupledParts, ikl_loss
from methods.losses.precision import float32_or_wider


class DklBaConstParams(DecoupledParams):
    """The weights of IKL, and the constant that replaces every s_y^j: ``class_weight``, or 1/C."""

    class_weight: float | None = Field(None, gt=0)


class DklBaConstTask(DecoupledTask):
    """All pairs of classes have the same weight: a plain MSE of centred logit differences."""

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor) -> DecoupledParts:
        """Eq. 6 with a constant in place of the class means, unweighted."""
        constant = self.params.class_weight
        if constant is None:
            constant = 1 / self.context.num_classes
        # Half precision would round the constant.
        weights_BC = torch.full_like(float32_or_wider(clean_BC), constant, requires_grad=False)
        return ikl_loss(clean_BC, adv_BC, weights_BC)


RECIPES = by_dataset(growing_epsilon, RELEASED_ATTACK_WEIGHTS)

METHOD = Method(
    card=MethodCard(
        title="DKL with broken asymmetry, constant weights",
        family="adversarial",
        summary="Ablation of DKL with broken asymmetry: the weighted MSE gives all classes the "
        "same constant weight, which removes all information about classes.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \frac{\mathtt{wmse\_weight}}{4} \sum_{j,k} "
            r"\mathtt{class\_weight}^2 (\Delta m_{jk} - \Delta n_{jk})^2 "
            r"- \mathtt{ce\_weight} \sum_j \mathcal{S}(s_m^j) \log s_n^j"
        ),
        **cite("cui2024decoupled"),
        tables=(1,),
        notes=(
            "Row (d) of Table 1 prints a pair weight of 0.01. On 100 classes a uniform class mean "
            "is 0.01 and gives pair weights of 0.0001. We read 0.01 as the class mean, since IKL "
            "starts from it; class_weight 0.1 is the other reading.",
            "The row prints no alpha and beta. Here they are those of IKL, so that only the class "
            "weights differ between rows (d) and (e); row (c) has other ones.",
            "Attack weights follow the released IKL trainers: the weighted MSE drives the attack "
            "on CIFAR-100 only.",
        ),
        released_names={"wmse_weight": "beta", "ce_weight": "alpha"},
    ),
    params=DklBaConstParams,
    task=DklBaConstTask,
    recipes={**RECIPES, "table1/dkl-ba-const": RECIPES["cifar100"]},
    recipe_notes={
        "table1/dkl-ba-const": "The table prints a pair weight of 0.01 and no alpha or beta. On "
        "100 classes uniform class means are 0.01 and give pair weights of 0.0001; we read 0.01 as "
        "the class mean. params.class_weight=0.1 is the other reading."
    },
)
