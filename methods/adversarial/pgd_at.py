"""PGD adversarial training: cross-entropy on adversarial images (Madry et al., 2018)."""

from __future__ import annotations

from harness.method import Batch, Forward, Method, MethodCard, Objective, Params, StepOutput, Task
from methods._papers import cite
from methods._recipes import best_on_test, by_dataset, changed, uniform_start
from methods._steps import detached
from methods.losses.cross_entropy import label_cross_entropy


class PgdAtParams(Params):
    """PGD adversarial training has no parameters."""


class PgdAtTask(Task):
    """Cross-entropy on adversarial images, which maximise it."""

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """CE(o_n, y); no clean logits are needed."""
        return lambda adv_BC: label_cross_entropy(adv_BC, batch.targets)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_n, y), a mean over the batch."""
        loss = label_cross_entropy(model(batch.adversarial), batch.targets)
        return StepOutput(loss, detached(adv_ce=loss))


class LoggedPgdAtTask(PgdAtTask):
    """PGD-AT that ends each step with a forward pass on clean images, as released for the log.

    This pass moves BatchNorm's running statistics, which evaluation uses, towards clean images.
    """

    clean_pass_last = True


WIDE = {"model": {"arch": "wrn-34-20"}}
RECIPES = by_dataset(uniform_start)
ON_TEST = best_on_test(RECIPES)
CLEAN_PASS_NOTE = (
    "Each step ends with a forward pass on the clean images in training mode, as released for the "
    "log: it changes BatchNorm's running statistics, with which the model is evaluated."
)
RESTART_NOTE = (
    "The released attack makes one more forward pass in training mode to choose among restarts; "
    "since there is only one restart, this pass is left out."
)

METHOD = Method(
    card=MethodCard(
        title="PGD-AT",
        family="adversarial",
        summary="Trains on adversarial images found by projected gradient descent, with early "
        "stopping against robust overfitting.",
        formula=r"\max_{\|x_n - x\|_\infty \le \epsilon} \mathrm{CE}(o_n, y)",
        **cite("rice2020overfitting"),
        tables=(4,),
        notes=(
            "The released training chooses the epoch by robust accuracy on the test images. The "
            "CIFAR recipes choose it on 1,000 held-out training images, an option of the released "
            "code; the recipes named best-on-test and table4 choose it on the test images, like "
            "the printed row. Early stopping is worth about 7 points of robust accuracy.",
            "The released learning rate falls within an epoch; here it falls between epochs.",
            "The released code pads CIFAR-10 crops by reflection and rotates CIFAR-100 images by "
            "up to 15 degrees. The recipes do neither; data.crop_mode and data.rotation turn them "
            "on.",
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
        "table4/pgd-at": changed(ON_TEST["cifar10-best-on-test"], WIDE),
    },
    recipe_notes={
        "table4/pgd-at": "The epoch is chosen on the test images: in the authors' log of this "
        "model, PGD-10 accuracy is best, 58.16, after 102 of 200 epochs and 51.33 at the end."
    },
)
