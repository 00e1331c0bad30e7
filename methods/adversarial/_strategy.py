"""Strategy model of the LAS methods, which learns how to attack each image.

The strategy model chooses a radius, a step size and a step count for each image. The choice has no
gradient, so the strategy learns by REINFORCE from one reward per batch.

Shape suffixes: B batch, H choices to make, A alternatives of a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax
from torch.nn.utils import clip_grad_norm_

from harness.config import InnerAttackConfig, Radius
from harness.method import (
    AttackPlan,
    Batch,
    Forward,
    LookaheadStep,
    Objective,
    Params,
    Task,
    TaskContext,
)
from harness.models import build_model
from harness.training.inner_attack import pgd
from harness.training.modes import frozen_parameters
from harness.training.schedules import InnerSchedule
from methods._recipes import SMALL, Overrides, natural
from methods.losses.cross_entropy import label_cross_entropy, smoothed_cross_entropy
from methods.losses.precision import float32_or_wider

# The reward's attack: number of steps, each a quarter of the radius, and of restarts.
REWARD_STEPS, REWARD_RESTARTS = 10, 2
TARGET_EPS = 8 / 255

# Alternatives of a choice, within the limits of ``InnerAttackConfig``.
Radii = Annotated[tuple[Annotated[Radius, Field(le=1)], ...], Field(min_length=1)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]

STRATEGY_FORMULA = (
    r"\text{strategy: } -R \sum_h \log \pi_h(a_h \mid x), \quad R = \mathrm{CE}(o_n, y) + "
    r"\mathtt{robust\_reward\_weight}\, \mathrm{acc}_{\mathrm{PGD}} + "
    r"\mathtt{clean\_reward\_weight}\, \mathrm{acc}"
)
STRATEGY_NAMES = {
    "strategy_lr": "policy_model_lr",
    "strategy_interval": "interval_num",
    "eps_choices": "epsilon_types",
    "steps_choices": "attack_iters_types",
    "step_size_choices": "step_size_types",
    "robust_reward_weight": "R2_param",
    "clean_reward_weight": "R3_param",
}
STRATEGY_NOTES = (
    "The strategy model is a ResNet-18 with a single classifier over the alternatives of all "
    "choices. The released code also chooses the type of attack, from one alternative; this choice "
    "is left out.",
    "training.attack.eps is the largest radius of any image; the step count and step size set "
    "there are not used, since the strategy model chooses them.",
    "The reward's PGD, with ten steps and two restarts, runs on the copy of the model in training "
    "mode, as released.",
    "The loss in the reward is clipped at 10, or at 20 for las-trades, as released.",
)
MOVED_NOTE = (
    "The reward's PGD perturbs every image; the released one leaves images unchanged that are "
    "already misclassified."
)


def strategy_loss(logits: Sequence[Tensor], choices_BH: Tensor, reward: Tensor) -> Tensor:
    """-R sum_h mean_b log pi_h(a_bh | x_b), whose gradient is REINFORCE's without a baseline.

    Args:
        logits: one tensor [B, A] for each of the H choices.
        choices_BH: the chosen alternatives a_bh, int64 in [0, A).
        reward: R, one detached scalar for the batch.

    Returns:
        A scalar.
    """
    log_chosen_BH = torch.stack(
        [
            log_softmax(float32_or_wider(logits_BA), dim=-1).gather(1, choice_B[:, None])[:, 0]
            for logits_BA, choice_B in zip(logits, choices_BH.unbind(1), strict=True)
        ],
        dim=1,
    )
    return -reward * log_chosen_BH.mean(0).sum()


class StrategyParams(Params):
    """The strategy model, its choices, its optimiser, and the weights of its reward.

    Attributes:
        strategy_arch: its architecture.
        strategy_lr, strategy_momentum, strategy_weight_decay: settings of its optimiser.
        strategy_follows: whether its learning rate falls with that of the trained model.
        strategy_interval: training steps per update of the strategy model.
        eps_choices, step_size_choices, steps_choices: the alternatives; radii and step sizes are in
            pixel space.
        target_eps: the radius of the random start and of the reward's attack, in pixel space.
        robust_reward_weight, clean_reward_weight: weights, in the reward, of the two accuracies
            after a lookahead step.
        label_smoothing: the share of the label that smoothing moves to other classes in that step,
            in LAS-AT also in training; at 0.5 two classes are equal. LAS-TRADES does not use it.
    """

    strategy_arch: str = "resnet18-cifar"
    strategy_lr: float = Field(1e-4, gt=0)
    strategy_momentum: float = Field(0.0, ge=0, lt=1)
    strategy_weight_decay: float = Field(0.0, ge=0)
    strategy_follows: bool = False
    strategy_interval: int = Field(20, ge=1)
    eps_choices: Radii = tuple(k / 255 for k in range(3, 16))
    step_size_choices: Radii = tuple(k / 255 for k in range(1, 6))
    steps_choices: Counts = tuple(range(3, 15))
    target_eps: Radius = Field(TARGET_EPS, le=1)
    robust_reward_weight: float = Field(4.0, ge=0)
    clean_reward_weight: float = Field(2.0, ge=0)
    label_smoothing: float = Field(0.3, ge=0, le=0.5)


class StrategyTask(Task):
    """Attack each image as the strategy model chooses, and train that model alongside.

    The strategy model has its own optimiser, whose state is stored with the task's.
    """

    reward: Tensor
    reward_cap = 10.0

    def __init__(self, params: Any, context: TaskContext) -> None:
        """Build the strategy model and its optimiser."""
        super().__init__(params, context)
        choices = self.choices()
        self.sizes = [len(alternatives) for alternatives in choices.values()]
        for name, alternatives in choices.items():
            self.register_buffer(name, torch.tensor(alternatives), persistent=False)
        self.strategy = build_model(
            params.strategy_arch, sum(self.sizes), context.in_channels, context.image_size
        )
        self.strategy_optimizer = torch.optim.SGD(
            self.strategy.parameters(),
            lr=params.strategy_lr,
            momentum=params.strategy_momentum,
            weight_decay=params.strategy_weight_decay,
        )
        self.steps_seen = 0
        self.register_buffer("reward", torch.zeros(()))

    def choices(self) -> dict[str, tuple[float, ...]]:
        """Return the alternatives of each choice by name."""
        return {
            "eps": self.params.eps_choices,
            "step_size": self.params.step_size_choices,
            "steps": self.params.steps_choices,
        }

    def optimised_parameters(self) -> Iterable[nn.Parameter]:
        """Return no parameters: the strategy model has its own optimiser."""
        return ()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of the strategy's training, for checkpoints."""
        return {"steps": self.steps_seen, "optimizer": self.strategy_optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of the strategy's training."""
        self.steps_seen = state["steps"]
        self.strategy_optimizer.load_state_dict(state["optimizer"])

    def attack_plan(self, batch: Batch, generator: torch.Generator) -> AttackPlan:
        """Draw each image's attack from the strategy model, in eval mode."""
        self.strategy.eval()
        return self.plan(draw(self.strategy_logits(batch.x), generator))

    def strategy_logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits [B, A] for the alternatives of each choice."""
        logits: Tensor = self.strategy(x)
        return torch.split(logits, self.sizes, dim=1)

    def plan(self, choices_BH: Tensor) -> AttackPlan:
        """Return the attack plan for the chosen alternatives."""
        chosen = dict(zip(self.choices(), choices_BH.unbind(1), strict=True))
        return AttackPlan(
            eps_B=self.get_buffer("eps")[chosen["eps"]],
            step_size_B=self.get_buffer("step_size")[chosen["step_size"]],
            steps_B=self.get_buffer("steps")[chosen["steps"]],
            start_eps=self.params.target_eps,
        )

    def before_attack(self, batch: Batch, view: LookaheadStep) -> None:
        """Every ``strategy_interval`` steps, update the strategy by the reward of a drawn plan."""
        self.steps_seen += 1
        if self.steps_seen % self.params.strategy_interval:
            return
        self.strategy.train()
        logits = self.strategy_logits(batch.x)
        choices_BH = draw(logits, view.generator)
        tried = replace(batch, plan=self.plan(choices_BH))
        self.reward = self.plan_reward(tried, view)
        self.strategy_optimizer.zero_grad()
        strategy_loss(logits, choices_BH, self.reward).backward()
        clip_grad_norm_(self.strategy.parameters(), 1.0)
        if self.params.strategy_follows:
            (group,) = self.strategy_optimizer.param_groups
            group["lr"] = self.params.strategy_lr * view.rate_factor
        self.strategy_optimizer.step()

    def plan_reward(self, tried: Batch, view: LookaheadStep) -> Tensor:
        """Return the loss under a plan's attack plus weighted accuracies after a lookahead step.

        Args:
            tried: a batch with a plan; its adversarial images are computed here.
            view: the engine's attack and lookahead for this step.

        Returns:
            A detached scalar >= 0.
        """
        tried.x_adv = view.attack(tried)
        with torch.no_grad():
            attacked = self.attacked_loss(view.model, tried).clamp(0, self.reward_cap)
        after = view.look_ahead(
            lambda model: self.trial_loss(model, tried),
            lambda model: self.perturbation_loss(model, tried),
        )
        x_adv = strongest(after, tried, self.params.target_eps, view.generator)
        after.eval()
        with torch.no_grad():
            robust, clean = (
                (after(x).argmax(1) == tried.y).float().mean() for x in (x_adv, tried.x)
            )
        weights = self.params.robust_reward_weight, self.params.clean_reward_weight
        reward: Tensor = attacked.float() + weights[0] * robust + weights[1] * clean
        return reward

    def logged(self, batch: Batch) -> dict[str, Tensor]:
        """Return the plan's mean radius and step count and the last reward, for the log."""
        if batch.plan is None:
            return {}
        plan = batch.plan
        return {
            "attack_eps": plan.eps_B.mean(),
            "attack_steps": plan.steps_B.float().mean(),
            "reward": self.reward,
        }

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """CE(o_n, y); no clean logits are needed."""
        return lambda adv_BC: label_cross_entropy(adv_BC, batch.targets)

    def attacked_loss(self, model: Forward, batch: Batch) -> Tensor:
        """The loss term of the reward: CE(o_n, y), without label smoothing."""
        return label_cross_entropy(model(batch.adversarial), batch.targets)

    def trial_loss(self, model: Forward, batch: Batch) -> Tensor:
        """The loss of the lookahead step, after which both accuracies are measured."""
        logits_BC = model(batch.adversarial)
        return smoothed_cross_entropy(logits_BC, batch.targets, self.params.label_smoothing)


def draw(logits: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Draw an alternative for each image and choice, [B, H], from the softmax of logits [B, A]."""
    return torch.cat(
        [
            torch.multinomial(softmax(float32_or_wider(scores), -1), 1, generator=generator)
            for scores in logits
        ],
        dim=1,
    )


def strongest(model: nn.Module, batch: Batch, eps: float, generator: torch.Generator) -> Tensor:
    """Return the images of highest cross-entropy that PGD with restarts finds near ``batch.x``."""

    def objective(logits_BC: Tensor) -> Tensor:
        return label_cross_entropy(logits_BC, batch.targets)

    schedule, config = InnerSchedule(eps, eps / 4, REWARD_STEPS), InnerAttackConfig(start="uniform")
    best, highest_B = batch.x, torch.full_like(batch.y, -1, dtype=torch.float32)
    with frozen_parameters(model):
        for _ in range(REWARD_RESTARTS):
            x_adv = pgd(model, objective, batch.x, schedule, config, generator)
            with torch.no_grad():
                loss_B = cross_entropy(model(x_adv).float(), batch.targets, reduction="none")
            better_B = loss_B >= highest_B
            best = torch.where(better_B[:, None, None, None], x_adv, best)
            highest_B = torch.where(better_B, loss_B, highest_B)
    return best


def chosen_from(
    dataset: str, radii: Sequence[int], sizes: Sequence[int], steps: Sequence[int]
) -> Overrides:
    """Return parameters with the given alternatives, in units of 1/255, on CIFAR.

    Small datasets have fewer alternatives, in units of an eighth of the evaluation's radius.
    """
    unit, small = 255.0, {}
    if dataset in SMALL:
        eps = natural(dataset)["evaluation"]["eps"]
        unit, radii, sizes, steps = 8 / eps, (4, 6, 8, 10), (1, 2, 3), (3, 5, 7, 10)
        small = {"strategy_arch": "resnet8", "strategy_interval": 5, "target_eps": eps}
    return {
        "eps_choices": [radius / unit for radius in radii],
        "step_size_choices": [size / unit for size in sizes],
        "steps_choices": list(steps),
        **small,
    }


def allowed(params: Overrides) -> Overrides:
    """Return settings with ``params`` and with the largest of its radii as the attack's radius.

    Accuracy during training is that at the radius of the reward's attack.
    """
    target = params.get("target_eps", TARGET_EPS)
    attack = {"eps": max(params["eps_choices"])}
    return {"params": params, "training": {"attack": attack, "selection": {"eps": target}}}
