"""LBGAT: a natural model, trained alongside, guides the boundary (Cui et al., 2021)."""

from __future__ import annotations

from functools import partial

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from harness.models import build_model
from methods._papers import cite
from methods._recipes import SMALL, Overrides, by_dataset, trades_training
from methods._steps import detached
from methods.adversarial.trades import TradesParams, TradesTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import kl_divergence
from methods.losses.precision import float32_or_wider


class LbgatParams(TradesParams):
    """The weight of the divergence, and the arch of the model trained on clean images only."""

    natural_arch: str = "resnet18-quarter"


class LbgatTask(TradesTask):
    """Match adversarial logits to those of a natural model on the clean images.

    The natural model belongs to the task: the engine optimises it together with the trained model
    and stores it in checkpoints. It is not attacked and not part of the result.
    """

    def __init__(self, params: LbgatParams, context: TaskContext) -> None:
        """Build the natural model."""
        super().__init__(params, context)
        self.natural = build_model(
            params.natural_arch, context.num_classes, context.in_channels, context.image_size
        )

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """mean_{B,C} (o_n - t)^2 + CE(t, y) + kl_weight KL(s_m || s_n), t natural logits.

        Gradients of the first term flow into both models. There is no cross-entropy on the trained
        model's clean logits.
        """
        adv_BC = float32_or_wider(model(batch.adversarial))
        clean_BC = model(batch.x)
        natural_BC = float32_or_wider(self.natural(batch.x))
        mse = (adv_BC - natural_BC).square().mean()
        natural_ce = label_cross_entropy(natural_BC, batch.targets)
        kl = kl_divergence(clean_BC, adv_BC)
        loss = mse + natural_ce + self.params.kl_weight * kl
        return StepOutput(loss, detached(mse=mse, natural_ce=natural_ce, kl=kl))


def _training(dataset: str) -> Overrides:
    base = trades_training(dataset)
    if dataset in SMALL:
        return merge(base, {"params": {"natural_arch": "resnet8"}})
    optimizer = {"first_epoch_factor": 0.2, "milestones": (75, 90)}
    return merge(base, {"training": {"epochs": 100, "optimizer": optimizer}})


def _table4() -> Overrides:
    row: Overrides = {"params": {"kl_weight": 0.0}, "model": {"arch": "wrn-34-20"}}
    return merge(_training("cifar10"), row)


METHOD = Method(
    card=MethodCard(
        title="LBGAT",
        family="adversarial",
        summary="Pulls adversarial logits towards those of a natural model that is trained "
        "alongside on clean images.",
        formula=(
            r"\frac{1}{C} \|o_n - t\|_2^2 + \mathrm{CE}(t, y) + \mathtt{kl\_weight}\, "
            r"D_{\mathrm{KL}}(s_m \,\|\, s_n), \quad t = \mathtt{natural\_arch}(x_m)"
        ),
        **cite("cui2021learnable"),
        tables=(2, 4),
        notes=(
            "The printed rows are trained and attacked at radius 0.031, as released; the recipes "
            "train at 0.031 and evaluate at 8/255, which is slightly harder.",
            "Table 2 has weight 6, for which the release gives AutoAttack accuracy 29.33. Table 4 "
            "does not print the weight; the release names the model with its numbers LBGAT0, which "
            "is weight 0.",
            "The natural model's logits are not detached, as released, so it is also pulled "
            "towards the trained model. It is a ResNet-18 that downsamples in the last two of its "
            "four stages.",
            "The released checkpoints are those of epochs 91 and 92; here the last of 100 is kept.",
            "Variants with weight perturbation are reported by the authors but not released.",
        ),
        released_names={"kl_weight": "beta"},
    ),
    params=LbgatParams,
    task=LbgatTask,
    recipes={
        **by_dataset(_training),
        "table2/lbgat": partial(_training, "cifar100"),
        "table4/lbgat": _table4,
    },
)
