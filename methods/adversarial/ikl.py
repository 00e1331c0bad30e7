"""IKL: DKL with broken asymmetry and class-wise weights (Cui et al., 2024, Eqs. 6 and 10)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from pydantic import Field
from torch import Tensor

from harness.config import merge
from harness.method import (
    Batch,
    Forward,
    Method,
    MethodCard,
    Objective,
    Recipe,
    StepOutput,
    Task,
    TaskContext,
)
from methods._papers import cite
from methods._recipes import by_dataset, changed, growing_epsilon, one_at_a_time
from methods._steps import detached
from methods.adversarial._decoupled import RELEASED_ATTACK_WEIGHTS, DecoupledParams
from methods.adversarial._generated import LONG_NOTE, edm
from methods.losses.class_means import ClassMeans
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import DecoupledParts, ikl_loss


class IklParams(DecoupledParams):
    """Weights of the loss and of the attack, and the settings of the class means.

    ``temperature`` softens the predictions averaged in the class means, and nothing else.
    ``class_mean_momentum`` 1 replaces the means after each epoch. ``label_smoothing`` is the weight
    of the uniform distribution in the labels of the clean cross-entropy.
    """

    temperature: float = Field(4.0, gt=0)
    class_mean_momentum: float = Field(1.0, gt=0, le=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class IklTask(Task):
    """Weight each sample by the mean prediction of its class in the previous epoch."""

    def __init__(self, params: IklParams, context: TaskContext) -> None:
        """Start from uniform class means."""
        super().__init__(params, context)
        self.class_means = ClassMeans(
            context.num_classes,
            temperature=params.temperature,
            momentum=params.class_mean_momentum,
            device=context.device,
        )

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """Eq. 6 with the attack's weights; clean logits are computed once for all steps."""
        clean_BC, class_weights_BC = model(batch.x), self.class_means.of(batch.y)
        weights = self.params.attack_wmse_weight, self.params.attack_ce_weight
        return lambda adv_BC: ikl_loss(clean_BC, adv_BC, class_weights_BC).weighted(*weights)

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor) -> DecoupledParts:
        """Eq. 6, unweighted."""
        return ikl_loss(clean_BC, adv_BC, self.class_means.of(y_B))

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_m, y) + wmse_weight wMSE + ce_weight soft CE; adversarial images go first."""
        adv_BC, clean_BC = model(batch.adversarial), model(batch.x)
        ce = label_cross_entropy(clean_BC, batch.targets, self.params.label_smoothing)
        wmse, soft_ce = self.divergence(clean_BC, adv_BC, batch.y)
        loss = ce + self.params.wmse_weight * wmse + self.params.ce_weight * soft_ce
        parts = detached(ce=ce, wmse=wmse, soft_ce=soft_ce)
        return StepOutput(loss, parts, {"clean_logits": clean_BC.detach()})

    def observe(self, batch: Batch, output: StepOutput) -> None:
        """Add the training pass's clean predictions, at perturbed weights, to the class means."""
        self.class_means.update(output.extras["clean_logits"], batch.y)

    def end_epoch(self, epoch: int) -> None:
        """Weight the next epoch by this epoch's means."""
        self.class_means.end_epoch()


def _with_generated(
    dataset: str, size: str, wmse_weight: float, ce_weight: float
) -> dict[str, object]:
    """The training on generated images with IKL instead of KL."""
    weights = {"wmse_weight": wmse_weight, "ce_weight": ce_weight, "temperature": 4.0}
    attack = RELEASED_ATTACK_WEIGHTS[dataset]["params"]
    params = {**weights, **attack, "label_smoothing": 0.1}
    return merge(edm(dataset, size), {"params": params})


DEFAULTS = by_dataset(growing_epsilon, RELEASED_ATTACK_WEIGHTS)


def _row(wmse_weight: int, ce_weight: int, temperature: int) -> Recipe:
    """The CIFAR-100 recipe at a row's weights and temperature."""
    weights = {"wmse_weight": wmse_weight, "ce_weight": ce_weight, "temperature": temperature}
    return changed(DEFAULTS["cifar100"], {"params": weights})


def _sweep(table: int, pairs: Iterable[tuple[int, int]], temperature: int) -> dict[str, Recipe]:
    return {f"table{table}/ikl-a{a}-b{b}": _row(a, b, temperature) for a, b in pairs}


AT_TEMPERATURE_4 = one_at_a_time((12, 16, 20, 24), (1, 2, 3, 4), centre=(20, 3))
AT_TEMPERATURE_2 = one_at_a_time((15, 18, 20, 24), (2, 3, 4, 5), centre=(20, 3))
ROWS: dict[str, Recipe] = {
    "table1/ikl": _row(20, 3, 4),
    "table2/ikl-a20-b3": _row(20, 3, 4),
    "table2/ikl-a20-b4": _row(20, 4, 2),
    "table4/ikl": DEFAULTS["cifar10"],
    **_sweep(6, AT_TEMPERATURE_4, temperature=4),
    **_sweep(8, AT_TEMPERATURE_4, temperature=4),
    **_sweep(9, AT_TEMPERATURE_2, temperature=2),
}

BEST = (
    "The weights 20 and 3 at temperature 4 are those of the authors' log and of Table 8; no "
    "released script uses them (the scripts pass ce_weight 4 and 5). "
)
SAME_ROW = (
    "Tables 6 and 8 (temperature 4) and Table 9 (temperature 2) print the same row for alpha 24, "
    "63.59/31.44. It fits the neighbouring rows at temperature 2, so the row at 4 is in doubt."
)
IMPOSSIBLE = (
    "The printed AutoAttack accuracy, 30.69, is above that of its own second stage, 30.66 for "
    "APGD-T{}, which is impossible within one run of AutoAttack."
)
ROW_NOTES = {
    "table1/ikl": BEST + "Table 1 prints neither weights nor seeds; its numbers, 66.51/31.45, are "
    "those of this row of Table 2.",
    "table2/ikl-a20-b3": BEST
    + "The authors' log gives AutoAttack 31.43, the table 31.45. The gain "
    "is counted against 30.77; LBGAT with weight perturbation, which the table leaves out, has "
    "62.99/31.20.",
    "table2/ikl-a20-b4": "The label is blank in the table; weights and temperature are those of "
    "the row with the same numbers in Table 9. The authors' log gives AutoAttack 31.65, the table "
    "31.67.",
    "table4/ikl": BEST + "Clean accuracy is 84.70 in Section 4.1 and 85.31 in the table and in the "
    "authors' log; the log gives AutoAttack 57.09, the table 57.13. The released CIFAR-10 attack "
    "leaves out the weighted MSE; params.attack_wmse_weight=1 includes it.",
    **{f"table{table}/ikl-a24-b3": SAME_ROW for table in (6, 8, 9)},
    "table6/ikl-a20-b1": IMPOSSIBLE.format(""),
    "table8/ikl-a20-b1": IMPOSSIBLE.format(" (Table 6, same row)"),
}

METHOD = Method(
    card=MethodCard(
        title="IKL-AT",
        family="adversarial",
        summary="Trains on the improved KL divergence, whose weighted MSE trains both outputs and "
        "uses the mean prediction of each class as weights.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \frac{\mathtt{wmse\_weight}}{4} \sum_{j,k} "
            r"\mathcal{S}(\bar s_y^j \bar s_y^k) (\Delta m_{jk} - \Delta n_{jk})^2 "
            r"- \mathtt{ce\_weight} \sum_j \mathcal{S}(s_m^j) \log s_n^j, \quad "
            r"\bar s_y = \frac{1}{|\mathcal{X}_y|} \sum_{x_i \in \mathcal{X}_y} "
            r"\mathrm{Softmax}(o_i / \mathtt{temperature})"
        ),
        **cite("cui2024decoupled"),
        tables=(1, 2, 4, 6, 8, 9),
        notes=(
            "The paper's alpha is wmse_weight, its beta ce_weight, its tau temperature. The "
            "released code swaps alpha and beta, in its options and in the names of its "
            "checkpoints.",
            "Eq. 6 leaves out the cross-entropy of clean images that the released code adds.",
            "The defaults 20, 3, 4 are those of the best CIFAR-100 and CIFAR-10 rows according to "
            "the authors' logs; the released scripts pass ce_weight 4 and 5.",
            "Class means are those of the previous epoch, computed during training at perturbed "
            "weights on augmented images, and uniform in epoch 1, as released. A class without a "
            "sample keeps its row; the released code would divide by zero.",
            "Class means are part of each checkpoint. The released trainer does not store them, so "
            "its resumed runs start from uniform ones.",
            "In the released trainers the weighted MSE drives the attack on CIFAR-100 "
            "(attack_wmse_weight 1) but not on CIFAR-10 (0); the paper does not mention it.",
            "The released code takes five attack steps of half the radius in every epoch; "
            "training.attack.step_rule=staged is what it seems to intend.",
            "The released scripts average the weights over epochs; the paper does not mention it.",
            "The trainer for generated images was never released. According to the paper, it "
            "replaces KL in the training of Wang et al. (wang-dm) and changes nothing else, so the "
            "recipes with generated images keep that training, with smoothed labels and without "
            "weight perturbation. One difference: adversarial images go before clean ones, as in "
            "the released IKL trainers; in wang-dm clean ones go first. Class means include "
            "generated images, and the attack's objective is that of the dataset's own recipe; "
            "both are this project's choices.",
            "The weights with generated images, 12 and 5 (CIFAR-100, 50 million) and 10 and 3 "
            "(CIFAR-10, 20 million), are taken from the names of the authors' logs. Those with a "
            "million images are unknown; the recipes use the same weights on the same dataset.",
            LONG_NOTE,
        ),
        released_names={
            "wmse_weight": "beta",
            "ce_weight": "alpha",
            "temperature": "T",
            "class_mean_momentum": "m",
        },
    ),
    params=IklParams,
    task=IklTask,
    recipes={
        **DEFAULTS,
        **ROWS,
        "table2/ikl-1m": partial(_with_generated, "cifar100", "1m", 12.0, 5.0),
        "table2/ikl-50m": partial(_with_generated, "cifar100", "50m", 12.0, 5.0),
        "table4/ikl-1m": partial(_with_generated, "cifar10", "1m", 10.0, 3.0),
        "table4/ikl-20m": partial(_with_generated, "cifar10", "20m", 10.0, 3.0),
    },
    recipe_notes=ROW_NOTES,
)
