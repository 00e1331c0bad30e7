"""MART: misclassified images have a higher weight (Wang et al., 2020)."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot, softmax

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput
from methods._papers import cite
from methods._recipes import SMALL, Overrides, by_dataset, trades_training
from methods._steps import detached
from methods.adversarial.pgd_at import PgdAtTask
from methods.losses.divergence import kl_per_sample
from methods.losses.precision import float32_or_wider

# The release's bound on the margin term: -log(1.0001 - p) is at most -log(0.0001).
MARGIN_FLOOR = 1e-4


class MartParts(NamedTuple):
    """The boosted cross-entropy and the unweighted divergence, scalars."""

    bce: Tensor
    kl: Tensor


def mart_loss(logits_m: Tensor, logits_n: Tensor, y_B: Tensor) -> MartParts:
    """The parts of MART's loss (Wang et al., 2020), means over the batch.

    The boosted cross-entropy is -log s_n^y - log(1 - max_{k != y} s_n^k); the divergence of each
    sample, KL(s_m || s_n), is weighted by 1 - s_m^y, through which gradients flow.

    Args:
        logits_m: logits of clean images [B, C], C >= 2.
        logits_n: logits of adversarial images [B, C].
        y_B: labels, int64 in [0, C).
    """
    log_n_BC = log_softmax(float32_or_wider(logits_n), dim=-1)
    is_label_BC = one_hot(y_B, logits_m.shape[-1]).bool()
    rival_B = log_n_BC.exp().masked_fill(is_label_BC, 0).amax(-1)
    margin = -(1 + MARGIN_FLOOR - rival_B).log().mean()
    doubt_B = 1 - softmax(float32_or_wider(logits_m), dim=-1)[is_label_BC]
    kl = (doubt_B * kl_per_sample(logits_m, logits_n)).mean()
    return MartParts(bce=cross_entropy(log_n_BC, y_B) + margin, kl=kl)


class MartParams(Params):
    """The weight of the divergence, the paper's lambda."""

    kl_weight: float = Field(6.0, ge=0)


class MartTask(PgdAtTask):
    """The attack of PGD adversarial training with MART's loss."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """Boosted CE + kl_weight weighted KL; clean images go first, as released."""
        clean_BC, adv_BC = model(batch.x), model(batch.adversarial)
        parts = mart_loss(clean_BC, adv_BC, batch.y)
        loss = parts.bce + self.params.kl_weight * parts.kl
        return StepOutput(loss, detached(bce=parts.bce, kl=parts.kl))


def _training(dataset: str) -> Overrides:
    if dataset in SMALL:
        return trades_training(dataset)
    released: Overrides = {
        "training": {"epochs": 90, "optimizer": {"weight_decay": 7e-4, "milestones": (74, 89)}}
    }
    return merge(trades_training(dataset), released)


METHOD = Method(
    card=MethodCard(
        title="MART",
        family="adversarial",
        summary="Gives the divergence between clean and adversarial predictions a higher weight on "
        "misclassified images.",
        formula=(
            r"-\log s_n^y - \log\left(1 - \max_{k \ne y} s_n^k\right) + \mathtt{kl\_weight}\, "
            r"(1 - s_m^y)\, D_{\mathrm{KL}}(s_m \,\|\, s_n)"
        ),
        **cite("wang2020improving"),
        notes=(
            "Settings are those of the released training of WRN-34-10 on CIFAR-10; the CIFAR-100 "
            "recipe uses them too.",
            "The margin term is bounded as in the released code, with 1.0001 in place of 1; the "
            "code's other two guards against log 0 are not needed with log-softmax.",
        ),
        released_names={"kl_weight": "beta"},
    ),
    params=MartParams,
    task=MartTask,
    recipes=by_dataset(_training),
)
