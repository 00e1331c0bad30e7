"""LAS-AT: adversarial training whose attack is chosen for each image (Jia et al., 2022)."""

from __future__ import annotations

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods._papers import cite
from methods._recipes import CHOSEN_ON_TEST, SMALL, Overrides, by_dataset, changed, uniform_start
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
from methods.losses.smoothing import smoothed_cross_entropy


class LasAtTask(StrategyTask):
    """Cross-entropy with smoothed labels on images attacked as the strategy network chooses."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """The smoothed CE(o_n, y), a mean over the batch."""
        logits_BC = model(batch.adversarial)
        loss = smoothed_cross_entropy(logits_BC, batch.y, self.params.label_smoothing)
        return StepOutput(loss, {"adv_ce": loss.detach(), **self.watched(batch)})


# What the release changes for CIFAR-100.
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
        summary="A second network, trained along by reinforcement, chooses radius, step size and "
        "step count of the attack on each image.",
        formula=(r"\mathrm{CE}_{\mathtt{label\_smoothing}}(o_n, y), \quad " + STRATEGY_FORMULA),
        **cite("jia2022las"),
        notes=(
            "This is the variant called LAS-PGD-AT. The rows LAS-AT of Tables 2 and 4 print the "
            "numbers of the variant with weight perturbation: las-awp has their recipes.",
            "Images are attacked at up to 15/255 and trained on there, as released.",
            "The release keeps 0.7 of a label's mass on CIFAR-10 and 0.6 on CIFAR-100, here "
            "label_smoothing 0.3 and 0.4.",
            "The strategy network's rate falls at milestones that the release counts in steps but "
            "compares with updates, one in twenty steps: it never falls.",
            "The released training chooses the epoch by PGD-10 on the test images; the recipes "
            "choose it on 1,000 held-out training images, those named best-on-test do as released.",
            *STRATEGY_NOTES,
            MOVED_NOTE,
        ),
        released_names=STRATEGY_NAMES,
    ),
    params=StrategyParams,
    task=LasAtTask,
    recipes={
        **RECIPES,
        **{
            f"{dataset}-best-on-test": changed(RECIPES[dataset], CHOSEN_ON_TEST)
            for dataset in ("cifar10", "cifar100")
        },
    },
)
