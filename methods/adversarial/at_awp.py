"""Adversarial training with adversarial weight perturbation (Wu et al., 2020)."""

from __future__ import annotations

from harness.config import merge
from harness.method import Method, MethodCard
from methods._papers import cite
from methods._recipes import CHOSEN_ON_TEST, SMALL, Overrides, by_dataset, changed, uniform_start
from methods.adversarial.pgd_at import CLEAN_PASS_NOTE, RESTART_NOTE, LoggedPgdAtTask, PgdAtParams


def _training(dataset: str) -> Overrides:
    gamma = 0.005 if dataset in SMALL else 0.01
    training: Overrides = {"weight_perturbation": {"gamma": gamma, "start_epoch": 1}}
    if dataset not in SMALL:
        training["selection"] = {"pgd_steps": 20}
    return merge(uniform_start(dataset), {"training": training})


RECIPES = by_dataset(_training)

METHOD = Method(
    card=MethodCard(
        title="AT-AWP",
        family="adversarial",
        summary="PGD adversarial training that takes each step's gradient at weights perturbed to "
        "increase the loss.",
        formula=(
            r"\max_{\|v_l\| \le \gamma \|w_l\|} \; \max_{\|x_n - x\|_\infty \le \epsilon} "
            r"\mathrm{CE}(o_n, y) \quad \text{at weights } w + v"
        ),
        **cite("wu2020adversarial"),
        tables=(2,),
        notes=(
            "Row AWP of Table 2 (CIFAR-100) is this method; row AWP of Table 4 (CIFAR-10) is "
            "trades-awp.",
            "gamma is training.weight_perturbation.gamma, 0.01 from the first epoch on as "
            "released.",
            "The released training chooses the epoch by robust accuracy on the test images. The "
            "CIFAR recipes choose it on 1,000 held-out training images, by 20 steps of PGD as "
            "released, but of size 1/255 instead of 2/255; table2/at-awp chooses it on the test "
            "images, like the printed row.",
            "The released code rotates CIFAR-100 images by up to 15 degrees and pads CIFAR-10 "
            "crops by reflection. The recipes do neither; data.rotation and data.crop_mode turn "
            "them on.",
            CLEAN_PASS_NOTE + " The perturbation of the weights is removed before this pass.",
            RESTART_NOTE,
        ),
    ),
    params=PgdAtParams,
    task=LoggedPgdAtTask,
    recipes={**RECIPES, "table2/at-awp": changed(RECIPES["cifar100"], CHOSEN_ON_TEST)},
    recipe_notes={
        "table2/at-awp": "Row AWP is AT-AWP here and TRADES-AWP in Table 4. Its epoch was chosen "
        "on the test images; its images were also rotated by up to 15 degrees, unlike those of "
        "the other rows and of this recipe. TRADES-AWP on the same model, which the table leaves "
        "out, has 62.41/29.54."
    },
)
