"""PGD adversarial training: cross-entropy on adversarial images (Madry et al., 2018)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.method import Batch, Forward, Method, MethodCard, Objective, Params, StepOutput, Task
from methods._papers import cite
from methods._recipes import CHOSEN_ON_TEST, Overrides, by_dataset, changed, uniform_start
from methods.losses.divergence import float32_or_wider


class PgdAtParams(Params):
    """PGD adversarial training has no parameters of its own."""


class PgdAtTask(Task):
    """Cross-entropy on images that the attack made to raise it."""

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """CE(o_n, y): no clean logits are needed."""

        def objective(adv_BC: Tensor) -> Tensor:
            return cross_entropy(float32_or_wider(adv_BC), batch.y)

        return objective

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_n, y), a mean over the batch."""
        loss = cross_entropy(float32_or_wider(model(batch.adversarial)), batch.y)
        return StepOutput(loss, {"adv_ce": loss.detach()})


class LoggedPgdAtTask(PgdAtTask):
    """As released: each step ends with a pass of the clean images, to log their accuracy.

    It moves BatchNorm's running statistics towards clean images, and evaluation is by these.
    """

    clean_pass_last = True


RECIPES = by_dataset(uniform_start)
ON_TEST = {
    f"{dataset}-best-on-test": changed(RECIPES[dataset], CHOSEN_ON_TEST)
    for dataset in ("cifar10", "cifar100")
}
CLEAN_PASS_NOTE = (
    "Each step ends with a forward pass of the clean images in training mode, as released, where "
    "it serves the log: it moves BatchNorm's running statistics, by which the network is evaluated."
)
RESTART_NOTE = (
    "The released attack passes the images that it found once more in training mode, to choose "
    "among restarts of which there is one; this pass is left out."
)
WIDE: Overrides = {"model": {"arch": "wrn-34-20"}}

METHOD = Method(
    card=MethodCard(
        title="PGD-AT",
        family="adversarial",
        summary="Trains on the worst images that projected gradient descent finds, stopped early "
        "against robust overfitting.",
        formula=r"\max_{\|x_n - x\|_\infty \le \epsilon} \mathrm{CE}(o_n, y)",
        **cite("rice2020overfitting"),
        tables=(4,),
        notes=(
            "The released training chooses the epoch by robust accuracy on the test images. The "
            "CIFAR recipes choose it on 1,000 held-out training images, the release's own option; "
            "the recipes best-on-test and table4 do as the printed row did. Early stopping is "
            "worth about 7 points of robust accuracy.",
            "The released rate falls within an epoch's steps; here it falls between epochs.",
            "The released CIFAR-10 crop pads by reflection and the CIFAR-100 images are rotated by "
            "up to 15 degrees; the recipes here do neither, data.crop_mode and data.rotation can.",
            "The attack runs on the network in training mode, as released.",
            CLEAN_PASS_NOTE,
            RESTART_NOTE,
        ),
    ),
    params=PgdAtParams,
    task=LoggedPgdAtTask,
    recipes={
        **RECIPES,
        **ON_TEST,
        "table4/pgd-at": changed(ON_TEST["cifar10-best-on-test"], WIDE),
    },
    recipe_notes={
        "table4/pgd-at": "The epoch is chosen on the test images: the authors' log of this network "
        "has its best PGD-10 accuracy, 58.16, after 102 of 200 epochs and 51.33 at the end."
    },
)
