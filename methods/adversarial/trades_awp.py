"""TRADES with adversarial weight perturbation (Wu et al., 2020)."""

from __future__ import annotations

from harness.config import merge
from harness.method import Method, MethodCard
from methods._papers import cite
from methods._recipes import SMALL, Overrides, by_dataset, piecewise
from methods.adversarial.trades import TradesParams, TradesTask


def _training(dataset: str) -> Overrides:
    base = merge(piecewise(dataset), {"training": {"weight_perturbation": {"gamma": 0.005}}})
    if dataset in SMALL:
        return merge(base, {"training": {"weight_perturbation": {"start_epoch": 5}}})
    # The release lowers the rate from epochs 100 and 150 on, so after epochs 99 and 149.
    return merge(base, {"training": {"optimizer": {"milestones": (99, 149)}}})


RECIPES = by_dataset(_training)

METHOD = Method(
    card=MethodCard(
        title="TRADES-AWP",
        family="adversarial",
        summary="TRADES that takes each step's gradient at weights perturbed to increase the loss, "
        "which flattens the loss around the weights.",
        formula=(
            r"\max_{\|v_l\| \le \gamma \|w_l\|} \; \mathrm{CE}(o_m, y) + \mathtt{kl\_weight}\, "
            r"D_{\mathrm{KL}}(s_m \,\|\, s_n) \quad \text{at weights } w + v"
        ),
        **cite("wu2020adversarial"),
        tables=(4,),
        notes=(
            "Row AWP of Table 4 (CIFAR-10) is this method; row AWP of Table 2 (CIFAR-100) is "
            "adversarial training with weight perturbation, method at-awp.",
            "gamma is a setting of the training (training.weight_perturbation.gamma), 0.005 from "
            "epoch 10 on as released.",
            "The released loss makes two forward passes on the clean images at the perturbed "
            "weights, which updates BatchNorm's running statistics once more; here there is one. "
            "There is no further pass for the log.",
        ),
        released_names={"kl_weight": "beta"},
    ),
    params=TradesParams,
    task=TradesTask,
    recipes={**RECIPES, "table4/trades-awp": RECIPES["cifar10"]},
    recipe_notes={
        "table4/trades-awp": "Row AWP is TRADES-AWP here and AT-AWP in Table 2. The authors' log "
        "gives 85.36/56.17, as printed. The gain over the table's best row is counted against this "
        "row, though RobustBench lists LAS-AT on the same model at 84.98/56.26."
    },
)
