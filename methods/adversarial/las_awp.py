"""LAS-AWP: a learned attack for each image, at perturbed weights (Jia et al., 2022)."""

from __future__ import annotations

from pydantic import Field

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods._papers import cite
from methods._recipes import CHOSEN_ON_TEST, SMALL, Overrides, by_dataset, changed, uniform_start
from methods._steps import detached
from methods.adversarial._strategy import (
    STRATEGY_FORMULA,
    STRATEGY_NAMES,
    STRATEGY_NOTES,
    Counts,
    Radii,
    StrategyParams,
    StrategyTask,
    chosen_from,
)
from methods.adversarial.pgd_at import CLEAN_PASS_NOTE


class LasAwpParams(StrategyParams):
    """Strategy parameters with stronger attacks and a rate that falls with the model's."""

    strategy_follows: bool = True
    strategy_interval: int = Field(1, ge=1)
    eps_choices: Radii = tuple(k / 255 for k in range(7, 16))
    step_size_choices: Radii = tuple(k / 255 for k in range(2, 6))
    steps_choices: Counts = tuple(range(8, 17))
    robust_reward_weight: float = Field(1.0, ge=0)
    clean_reward_weight: float = Field(1.0, ge=0)


class LasAwpTask(StrategyTask):
    """Plain cross-entropy; labels are smoothed only in the reward's lookahead step.

    As released, each step ends with a forward pass on the clean images.
    """

    clean_pass_last = True

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_n, y), a mean over the batch."""
        loss = self.attacked_loss(model, batch)
        return StepOutput(loss, detached(adv_ce=loss) | self.logged(batch))


CIFAR100: Overrides = {
    "strategy_interval": 10,
    "strategy_momentum": 0.9,
    "strategy_weight_decay": 5e-4,
    "robust_reward_weight": 4.0,
    "clean_reward_weight": 2.0,
}


def _training(dataset: str) -> Overrides:
    steps = range(8, 16 if dataset == "cifar100" else 17)
    space = chosen_from(dataset, range(7, 16), range(2, 6), steps)
    small = dataset in SMALL
    gamma = 0.005 if small else 0.01
    shared: Overrides = {
        "params": space,
        "training": {
            "attack": {"model_mode": "eval"},
            "weight_perturbation": {"gamma": gamma, "start_epoch": 1},
        },
    }
    base = merge(uniform_start(dataset), shared)
    if small:
        return base
    ten = dataset == "cifar10"
    released: Overrides = {
        "params": {} if ten else CIFAR100,
        "data": {"crop_mode": "reflect" if ten else "zero"},
        "model": {"normalize": ten},
        "training": {"selection": {"pgd_steps": 20}},
    }
    return merge(base, released)


RECIPES = by_dataset(_training)
NOTE = (
    "The row is named LAS-AT, but its numbers, {numbers}, are those printed elsewhere for LAS-AWP, "
    "which is this method. The epoch is chosen on the test images, as released."
)

METHOD = Method(
    card=MethodCard(
        title="LAS-AWP",
        family="adversarial",
        summary="LAS-AT with weights perturbed to increase the loss, and with adversarial images "
        "clipped to the radius of the evaluation.",
        formula=(
            r"\max_{\|v_l\| \le \gamma \|w_l\|} \; \mathrm{CE}(o_n, y) \quad "
            r"\text{at weights } w + v, \quad " + STRATEGY_FORMULA
        ),
        **cite("jia2022las"),
        tables=(2, 4),
        notes=(
            "Images are attacked at radii of up to 15/255 and then clipped to 8/255, as released.",
            "gamma is training.weight_perturbation.gamma, 0.01 from the first epoch on as "
            "released.",
            "The reward's lookahead step smooths labels by 0.3; training does not smooth them.",
            "On CIFAR-10 the released code updates the strategy at every step, with weight 1 on "
            "both accuracies; on CIFAR-100 at every tenth step, with weights 4 and 2.",
            "The learning rate falls between epochs; in the released code it falls within an "
            "epoch. In the released reward on CIFAR-10 the model gets images that are not "
            "standardised; here they are.",
            "The released training chooses the epoch by PGD-20 on the test images, as do the "
            "tables' recipes; the others choose it on 1,000 held-out training images. The steps "
            "are 1/255 instead of 2/255.",
            CLEAN_PASS_NOTE + " The perturbation of the weights is removed before this pass.",
            *STRATEGY_NOTES,
            "The reward's PGD perturbs every image, as released for this variant.",
        ),
        released_names=STRATEGY_NAMES,
    ),
    params=LasAwpParams,
    task=LasAwpTask,
    recipes={
        **RECIPES,
        "table2/las-at": changed(RECIPES["cifar100"], CHOSEN_ON_TEST),
        "table4/las-at": changed(RECIPES["cifar10"], CHOSEN_ON_TEST),
    },
    recipe_notes={
        "table2/las-at": NOTE.format(numbers="64.89/30.77"),
        "table4/las-at": NOTE.format(numbers="87.74/55.52")
        + " RobustBench also lists LAS-AT on this model at 84.98/56.26.",
    },
)
