"""The baseline of Table 1: TRADES with weight perturbation and a growing radius."""

from __future__ import annotations

from pydantic import Field

from harness.method import Method, MethodCard
from methods._papers import cite
from methods._recipes import Overrides, by_dataset, growing_epsilon
from methods.adversarial.trades import FORMULA, TradesParams, TradesTask

# The released baseline has its own trainer, which differs from the others' in these two settings.
RELEASED_TRAINER: Overrides = {"training": {"drop_last": True, "optimizer": {"schedule": "cosine"}}}

RECIPES = by_dataset(growing_epsilon, {"cifar10": RELEASED_TRAINER, "cifar100": RELEASED_TRAINER})


class KlParams(TradesParams):
    """The weight of the divergence, as the released baseline sets it."""

    kl_weight: float = Field(9.0, ge=0)


METHOD = Method(
    card=MethodCard(
        title="KL (TRADES + AWP + growing epsilon)",
        family="adversarial",
        summary="The paper's baseline: the KL divergence of TRADES with the same training as the "
        "decoupled divergences.",
        formula=FORMULA,
        **cite("cui2024decoupled"),
        tables=(1,),
        notes=(
            "Weight 9, rate 0.2 and the growing radius are those of the released baseline script.",
            "Its trainer drops the last partial batch and starts the cosine at epoch 1 with the "
            "full rate; the trainer of the decoupled divergences does neither. The CIFAR recipes "
            "follow the respective trainer; the small-scale recipes are the same for all.",
        ),
        released_names={"kl_weight": "beta"},
    ),
    params=KlParams,
    task=TradesTask,
    recipes={**RECIPES, "table1/kl": RECIPES["cifar100"]},
    recipe_notes={
        "table1/kl": "The table gives no weight, arch or seed: they are those of the released "
        "baseline script, with the arch of Table 2."
    },
)
