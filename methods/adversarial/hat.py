"""HAT: TRADES with helper examples beyond the adversarial ones (Rade, Moosavi-Dezfooli, 2022)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from harness.config import merge
from harness.errors import UserError
from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods._papers import cite
from methods._recipes import (
    SMALL,
    Overrides,
    adversarial,
    best_on_test,
    by_dataset,
    changed,
    natural,
)
from methods._steps import detached
from methods.adversarial.trades import TradesParams, TradesTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import kl_divergence


class HatParams(TradesParams):
    """Weights of the divergence and of the helper examples, and the scale of the latter."""

    kl_weight: float = Field(2.5, ge=0)
    helper_weight: float = Field(0.5, ge=0)
    helper_scale: float = Field(2.0, ge=0)


class HatTask(TradesTask):
    """Label helper examples as a naturally trained network classifies the adversarial ones.

    Where the perturbation fools that network, the trained one may change its class beyond the
    radius, so that its margin need not become larger than necessary.
    """

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_m, y) + kl_weight KL(s_m || s_n) + helper_weight CE(o_h, y_h).

        Helper examples x_h = x_m + helper_scale (x_n - x_m) may leave [0, 1], as released.
        """
        clean_BC, adv_BC = model(batch.x), model(batch.adversarial)
        helper_BC = model(batch.x + self.params.helper_scale * (batch.adversarial - batch.x))
        ce, kl = label_cross_entropy(clean_BC, batch.targets), kl_divergence(clean_BC, adv_BC)
        helper_ce = label_cross_entropy(helper_BC, self._helper_labels(batch))
        loss = ce + self.params.kl_weight * kl + self.params.helper_weight * helper_ce
        return StepOutput(loss, detached(ce=ce, kl=kl, helper_ce=helper_ce))

    @torch.no_grad()
    def _helper_labels(self, batch: Batch) -> Tensor:
        """Return the teacher's predicted classes of the adversarial images, int64 [B]."""
        if self.context.teacher is None:
            raise UserError("this method needs a naturally trained teacher: set teacher.arch")
        labels: Tensor = self.context.teacher(batch.adversarial).argmax(-1)
        return labels


# One cycle over 50 epochs, for both the helper and the robust network.
RELEASED: Overrides = {
    "epochs": 50,
    "optimizer": {
        "lr": 0.21,
        "nesterov": True,
        "schedule": "onecycle",
        "pct_start": 0.25,
        "cycle_momentum": True,
    },
}


def _training(dataset: str) -> Overrides:
    helper = merge(natural(dataset), {"evaluation": {"attacks": []}})
    base = adversarial(dataset)
    if dataset not in SMALL:
        helper = merge(helper, {"training": RELEASED})
        base = merge(base, {"training": RELEASED})
    teacher = {"arch": base["model"]["arch"], "method": "vanilla", "config": helper}
    return merge(base, {"teacher": teacher})


RECIPES = by_dataset(_training)
SELECTION: Overrides = {"training": {"selection": {"pgd_steps": 20}}}
ON_TEST = {name: changed(recipe, SELECTION) for name, recipe in best_on_test(RECIPES).items()}

METHOD = Method(
    card=MethodCard(
        title="HAT",
        family="adversarial",
        summary="Adds to TRADES helper examples beyond the radius, labelled by a naturally trained "
        "network, so that margins become no larger than necessary.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \mathtt{kl\_weight}\, D_{\mathrm{KL}}(s_m \,\|\, s_n) + "
            r"\mathtt{helper\_weight}\, \mathrm{CE}(o(x_m + \mathtt{helper\_scale}\,(x_n - x_m)), "
            r"\hat y), \quad \hat y = \arg\max\nolimits_j t^j(x_n)"
        ),
        **cite("rade2022reducing"),
        notes=(
            "The teacher is the helper network, a run of vanilla on the same images.",
            "Helper examples are not clipped to [0, 1], as released.",
            "The release trains ResNet-18. It measures PGD-20 on the test images after epoch 30 "
            "and after each of the last five, and keeps the most robust of those five or, if epoch "
            "30 was more robust, epoch 45. The recipes cifar10-best-on-test and "
            "cifar100-best-on-test choose among all epochs, with steps of 1/255 instead of 2/255, "
            "and keep the earliest; the datasets' own recipes keep the last epoch. All have the "
            "arch of the other rows.",
            "The released helper network is that of the epoch with the best accuracy on the test "
            "images; here it is that of the last epoch.",
            "The released learning rate changes with each step; here it changes between epochs.",
            "The released weights and schedule are for CIFAR-10; the CIFAR-100 recipe uses them "
            "too. The released code also rotates CIFAR-100 images by up to 15 degrees; "
            "data.rotation=15 turns that on.",
        ),
        needs_teacher=True,
        released_names={"kl_weight": "beta", "helper_weight": "gamma", "helper_scale": "h"},
    ),
    params=HatParams,
    task=HatTask,
    recipes={**RECIPES, **ON_TEST},
)
