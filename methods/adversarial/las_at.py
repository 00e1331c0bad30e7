"""LAS-AT: adversarial training whose attack is chosen for each image (Jia et al., 2022)."""

from __future__ import annotations

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods._papers import cite
from methods._recipes import SMALL, Overrides, best_on_test, by_dataset, uniform_start
from methods._steps import detached
from methods.adversarial._strategy import (
    MOVED_NOTE,
    STRATEGY_FORMULA,
    STRATEGY_NAMES,
    STRATEGY_NOTES,
    StrategyParams,
    StrategyTask,
    allowed,
    chosen_from,
)
from methods.losses.cross_entropy import smoothed_cross_entropy


class LasAtTask(StrategyTask):
    """Cross-entropy with smoothed labels on images attacked as the strategy model chooses."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """Smoothed CE(o_n, y), a mean over the batch."""
        logits_BC = model(batch.adversarial)
        loss = smoothed_cross_entropy(logits_BC, batch.targets, self.params.label_smoothing)
        return StepOutput(loss, detached(adv_ce=loss) | self.logged(batch))


# The released settings that differ for CIFAR-100.
CIFAR100: Overrides = {
    "label_smoothing": 0.4,
    "strategy_momentum": 0.9,
    "strategy_weight_decay": 5e-4,
}


def _training(dataset: str) -> Overrides:
    steps = range(3, 13 if dataset == "cifar100" else 15)
    space = chosen_from(dataset, range(3, 16), range(1, 6), steps)
    base = merge(uniform_start(dataset), allowed(space))
    base = merge(base, {"training": {"attack": {"model_mode": "eval"}}})
    if dataset in SMALL:
        return base
    released: Overrides = {
        "params": CIFAR100 if dataset == "cifar100" else {},
        "model": {"normalize": False},
        "training": {"epochs": 110, "optimizer": {"milestones": (99, 104)}},
    }
    return merge(base, released)


RECIPES = by_dataset(_training)

METHOD = Method(
    card=MethodCard(
        title="LAS-AT",
        family="adversarial",
        summary="Trains on attacks whose radius, step size and step count a second model, trained "
        "alongside by reinforcement learning, chooses for each image.",
        formula=(r"\mathrm{CE}_{\mathtt{label\_smoothing}}(o_n, y), \quad " + STRATEGY_FORMULA),
        **cite("jia2022las"),
        notes=(
            "This is the variant LAS-PGD-AT. The rows LAS-AT of Tables 2 and 4 print the numbers "
            "of the variant with weight perturbation, whose recipes are under las-awp.",
            "Images are attacked and trained on at radii of up to 15/255, as released.",
            "The released label smoothing leaves 0.7 on the label on CIFAR-10 and 0.6 on "
            "CIFAR-100; this is label_smoothing 0.3 and 0.4 here.",
            "The strategy model's learning rate never falls: the released code gives its "
            "milestones in steps but compares them with updates, one in twenty steps.",
            "The released training chooses the epoch by PGD-10 at radius 8/255 on the test images, "
            "as do the recipes named best-on-test; the others choose it on 1,000 held-out training "
            "images.",
            *STRATEGY_NOTES,
            MOVED_NOTE,
        ),
        released_names=STRATEGY_NAMES,
    ),
    params=StrategyParams,
    task=LasAtTask,
    recipes={**RECIPES, **best_on_test(RECIPES)},
)
