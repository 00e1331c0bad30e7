"""SCORE: squared distances between predictions instead of divergences (Pang et al., 2022)."""

from __future__ import annotations

from functools import partial

from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot, softmax

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, Objective, Params, StepOutput, Task
from methods._papers import cite
from methods._recipes import Overrides, adversarial, by_dataset
from methods._steps import detached
from methods.adversarial._generated import ATTACK_MODE_NOTE, ddpm
from methods.losses.precision import float32_or_wider


def squared_distance(probabilities_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """sum_j (p_j - t_j)^2, a mean over the batch, with gradients into both arguments.

    Args:
        probabilities_BC: rows in the probability simplex, [B, C].
        targets_BC: the same.

    Returns:
        A scalar in [0, 2].
    """
    return (probabilities_BC - targets_BC).square().sum(-1).mean()


def _predictions(logits_BC: Tensor) -> Tensor:
    return softmax(float32_or_wider(logits_BC), dim=-1)


class ScoreParams(Params):
    """The weight of the distance between clean and adversarial predictions."""

    distance_weight: float = Field(4.0, ge=0)


class ScoreTask(Task):
    """Squared distances to the label and between the two predictions."""

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """The distance from the clean predictions, computed once for all steps."""
        clean_BC = _predictions(model(batch.x))
        return lambda adv_BC: squared_distance(_predictions(adv_BC), clean_BC)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """|s_m - y|^2 + distance_weight |s_n - s_m|^2; clean images go first, as released."""
        clean_BC = _predictions(model(batch.x))
        adv_BC = _predictions(model(batch.adversarial))
        labels_BC = batch.soft_labels
        if labels_BC is None:
            labels_BC = one_hot(batch.y, clean_BC.shape[-1])
        label = squared_distance(clean_BC, labels_BC.to(clean_BC.dtype))
        consistency = squared_distance(adv_BC, clean_BC)
        loss = label + self.params.distance_weight * consistency
        return StepOutput(loss, detached(label=label, consistency=consistency))


def _training(dataset: str) -> Overrides:
    attack = {"start": "uniform", "model_mode": "train-frozen"}
    return merge(adversarial(dataset), {"training": {"attack": attack}})


METHOD = Method(
    card=MethodCard(
        title="SCORE",
        family="adversarial",
        summary="Replaces the divergences of TRADES with squared distances between predictions, to "
        "reconcile robustness and accuracy.",
        formula=(
            r"\|s_m - e_y\|_2^2 + \mathtt{distance\_weight}\, \|s_n - s_m\|_2^2, \quad "
            r"x_n = \arg\max_{\|x' - x_m\|_\infty \le \epsilon} \|s(x') - s_m\|_2^2"
        ),
        **cite("pang2022robustness"),
        tables=(2,),
        notes=(
            "The row of Table 2 uses a million generated images, WRN-28-10 and 400 epochs, as do "
            "the recipes table2/score-1m and cifar10-1m. The datasets' own recipes use no "
            "generated images, and the arch and schedule of the other rows.",
            "The released command sets the weight 4; the released checkpoints were trained with 3.",
            ATTACK_MODE_NOTE,
            "The recipes with generated images average weights, rotate CIFAR-100 images and choose "
            "the epoch as those of wang-dm do. Of equally good epochs the released code keeps the "
            "latest; here the earliest is kept.",
        ),
        released_names={"distance_weight": "beta"},
    ),
    params=ScoreParams,
    task=ScoreTask,
    recipes={
        **by_dataset(_training),
        "cifar10-1m": partial(ddpm, "cifar10", "1m"),
        "table2/score-1m": partial(ddpm, "cifar100", "1m"),
    },
)
