"""LAS-TRADES: TRADES with a learned attack and weight for each image (Jia et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import Tensor

from harness.config import merge
from harness.method import AttackPlan, Batch, Forward, Method, MethodCard, Objective, StepOutput
from methods._papers import cite
from methods._recipes import SMALL, Overrides, adversarial, by_dataset
from methods._steps import detached
from methods.adversarial._strategy import (
    MOVED_NOTE,
    STRATEGY_FORMULA,
    STRATEGY_NAMES,
    STRATEGY_NOTES,
    Counts,
    Radii,
    StrategyParams,
    StrategyTask,
    allowed,
    chosen_from,
)
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import kl_divergence, kl_per_sample


@dataclass(frozen=True)
class TradesPlan(AttackPlan):
    """An attack plan, and the weight of each image's divergence [B]."""

    kl_weight_B: Tensor


class LasTradesParams(StrategyParams):
    """Strategy parameters, and the weights of the divergence to choose from."""

    strategy_momentum: float = Field(0.9, ge=0, lt=1)
    strategy_weight_decay: float = Field(5e-4, ge=0)
    strategy_follows: bool = True
    strategy_interval: int = Field(1, ge=1)
    eps_choices: Radii = tuple(k / 255 for k in range(5, 10))
    step_size_choices: Radii = tuple(k / 255 for k in range(2, 5))
    steps_choices: Counts = tuple(range(7, 15))
    kl_weight_choices: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (5.0, 6.0, 7.0, 8.0, 9.0), min_length=1
    )
    robust_reward_weight: float = Field(8.0, ge=0)
    clean_reward_weight: float = Field(4.0, ge=0)

    @model_validator(mode="after")
    def _no_smoothing(self) -> Self:
        if self.label_smoothing != type(self).model_fields["label_smoothing"].default:
            raise ValueError("las-trades does not smooth labels: leave label_smoothing out")
        return self


class LasTradesTask(StrategyTask):
    """The strategy model also chooses the weight of each image's divergence."""

    reward_cap = 20.0

    def choices(self) -> dict[str, tuple[float, ...]]:
        """Return the alternatives of the attack and of the weight."""
        return super().choices() | {"kl_weight": self.params.kl_weight_choices}

    def plan(self, choices_BH: Tensor) -> TradesPlan:
        """Return the attack and the weights for the chosen alternatives."""
        weights = self.get_buffer("kl_weight")
        return TradesPlan(**vars(super().plan(choices_BH)), kl_weight_B=weights[choices_BH[:, -1]])

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """KL(s_m || s_n), unweighted; clean logits are computed once for all steps."""
        clean_BC = model(batch.x)
        return lambda adv_BC: kl_divergence(clean_BC, adv_BC)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o_m, y) + weighted KL(s_m || s_n); clean images go first, as released."""
        plan = batch.plan
        if not isinstance(plan, TradesPlan):
            raise RuntimeError("this batch holds no plan of the strategy model")
        clean_BC, adv_BC = model(batch.x), model(batch.adversarial)
        ce = label_cross_entropy(clean_BC, batch.targets)
        kl = (plan.kl_weight_B * kl_per_sample(clean_BC, adv_BC)).mean()
        parts = detached(ce=ce, weighted_kl=kl, kl_weight=plan.kl_weight_B.mean())
        return StepOutput(ce + kl, parts | self.logged(batch))

    def attacked_loss(self, model: Forward, batch: Batch) -> Tensor:
        """The training loss."""
        return self.loss(model, batch).loss

    def trial_loss(self, model: Forward, batch: Batch) -> Tensor:
        """The training loss."""
        return self.loss(model, batch).loss


def _training(dataset: str) -> Overrides:
    radii = range(5, 11 if dataset == "cifar100" else 10)
    space = chosen_from(dataset, radii, range(2, 5), range(7, 15))
    base = merge(adversarial(dataset), allowed(space))
    if dataset in SMALL:
        return base
    released: Overrides = {
        "params": {"clean_reward_weight": 2.0} if dataset == "cifar100" else {},
        "data": {"val_size": 1000},
        "training": {
            "epochs": 100,
            "optimizer": {"schedule": "steps", "milestones": (75, 90)},
            "selection": {"rule": "best-on-val", "pgd_steps": 10},
        },
    }
    return merge(base, released)


METHOD = Method(
    card=MethodCard(
        title="LAS-TRADES",
        family="adversarial",
        summary="TRADES in which a second model, trained alongside by reinforcement learning, "
        "chooses the attack and the divergence's weight for each image.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \beta(x)\, D_{\mathrm{KL}}(s_m \,\|\, s_n), \quad "
            r"\beta(x) \in \mathtt{kl\_weight\_choices}, \quad "
            + STRATEGY_FORMULA.replace(
                r"\mathrm{CE}(o_n, y)", r"\mathrm{CE}(o_m, y) + \beta(x) D_{\mathrm{KL}}"
            )
        ),
        **cite("jia2022las"),
        notes=(
            "Images are attacked at radii of up to 9/255 on CIFAR-10 and 10/255 on CIFAR-100, as "
            "released.",
            "The reward's loss is computed in the attack's mode; in the released code the model is "
            "then in training mode, and the passes on clean and on adversarial images update its "
            "running statistics.",
            "The released training chooses the epoch by PGD-10 at radius 8/255 on the test images; "
            "the recipes choose it on 1,000 held-out training images.",
            *STRATEGY_NOTES,
            MOVED_NOTE,
        ),
        released_names=STRATEGY_NAMES | {"kl_weight_choices": "beta_types"},
    ),
    params=LasTradesParams,
    task=LasTradesTask,
    recipes=by_dataset(_training),
)
