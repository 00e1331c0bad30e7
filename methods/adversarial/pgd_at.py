"""PGD adversarial training: cross-entropy on adversarial images (Madry et al., 2018)."""

from __future__ import annotations

from harness.method import Batch, Forward, Method, MethodCard, Objective, Params, StepOutput, Task
from methods._papers import cite
from methods._recipes import best_on_test, by_dataset, changed, uniform_start
from methods._steps import detached
from methods.losses.cross_entropy import label_cross_entropy


class PgdAtParams(Params):
    """PGD adversarial training has no parameters of its own."""


class PgdAtTask(Task):
    """Cross-entropy on the images for which the attack has maximised it."""

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """CE(o_n, y); no clean logits are needed."""
        return lambda adv_BC: label_cross_entropy(adv_BC, batch.targets)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_n, y), a mean over the batch."""
        loss = label_cross_entropy(model(batch.adversarial), batch.targets)
        return StepOutput(loss, detached(adv_ce=loss))


class LoggedPgdAtTask(PgdAtTask):
    """As released: each step ends with a forward pass of the clean images, to log their accuracy.

    It moves BatchNorm's running statistics, which evaluation uses, towards clean images.
    """

    clean_pass_last = True


WIDE = {"model": {"arch": "wrn-34-20"}}
RECIPES = by_dataset(uniform_start)
ON_TEST = best_on_test(RECIPES)
CLEAN_PASS_NOTE = (
    "Each step ends with a forward pass of the clean images in training mode, as released for the "
    "log: it moves BatchNorm's running statistics, with which the model is evaluated."
)
RESTART_NOTE = (
    "The released attack makes one more forward pass in training mode to choose among restarts, "
    "of which there is only one; this pass is left out."
)

METHOD = Method(
    card=MethodCard(
        title="PGD-AT",
        family="adversarial",
        summary="Trains on the worst images that projected gradient descent finds, with early "
        "stopping against robust overfitting.",
        formula=r"\max_{\|x_n - x\|_\infty \le \epsilon} \mathrm{CE}(o_n, y)",
        **cite("rice2020overfitting"),
        tables=(4,),
        notes=(
            "The released training chooses the epoch by robust accuracy on the test images. The "
            "CIFAR recipes choose it on 1,000 held-out training images, an option of the release; "
            "the recipes best-on-test and table4 choose it on test, as the printed row. Early "
            "stopping is worth about 7 points of robust accuracy.",
            "The released rate falls within an epoch's steps; here it falls between epochs.",
            "The released CIFAR-10 crop pads by reflection and the CIFAR-100 images are rotated by "
            "up to 15 degrees; the recipes here do neither, data.crop_mode and data.rotation can.",
            "The attack runs on the model in training mode, as released.",
            CLEAN_PASS_NOTE,
            RESTART_NOTE,
        ),
    ),
    params=PgdAtParams,
    task=LoggedPgdAtTask,
    recipes={
        **RECIPES,
        **ON_TEST,
        "table4/pgd-at": changed(ON_TEST["cifar10-best-on-test"], {"model": {"arch": "wrn-34-20"}}),
    },
    recipe_notes={
        "table4/pgd-at": "The epoch is chosen on the test images: the authors' log of this model "
        "has its best PGD-10 accuracy, 58.16, after 102 of 200 epochs and 51.33 at the end."
    },
)
