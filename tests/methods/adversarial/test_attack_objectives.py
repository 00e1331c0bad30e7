"""The attack of every adversarial method maximises its formula, transcribed in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.method import Batch, Task
from harness.registry import METHODS
from tests.methods.conftest import NUM_CLASSES
from tests.methods.losses.transcriptions import pairwise_mse

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def label_ce(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    return -sum(row[label].log() for row, label in zip(adv.softmax(1), y, strict=True)) / len(y)


def kl(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    p, q = clean.softmax(1), adv.softmax(1)
    return sum((p[i] * (p[i] / q[i]).log()).sum() for i in range(len(y))) / len(y)


def soft_ce(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    return -(clean.softmax(1) * adv.softmax(1).log()).sum() / len(y)


def squared_distance(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    return (clean.softmax(1) - adv.softmax(1)).square().sum() / len(y)


CLASS_MEANS = torch.rand(
    NUM_CLASSES, NUM_CLASSES, generator=torch.Generator().manual_seed(8), dtype=torch.float64
).softmax(1)
# Distinct weights, so that a swap is detected.
WEIGHTS = {"attack_wmse_weight": 2.0, "attack_ce_weight": 3.0}


def decoupled(class_weights: Callable[[Tensor, Tensor], Tensor]) -> Formula:
    """2 wMSE + 3 soft CE, with weights of the classes from the clean logits and the labels."""

    def formula(clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        wmse = pairwise_mse(clean, adv, class_weights(clean, y)).mean()
        return 2 * wmse + 3 * soft_ce(clean, adv, y)

    return formula


def own(clean: Tensor, y: Tensor) -> Tensor:
    return clean.softmax(1)


def constant(clean: Tensor, y: Tensor) -> Tensor:
    return torch.full_like(clean, 1 / NUM_CLASSES)


def of_class(clean: Tensor, y: Tensor) -> Tensor:
    return CLASS_MEANS[y]


LAS = {"strategy_arch": "resnet8"}
OBJECTIVES: dict[str, tuple[Formula, dict[str, object]]] = {
    **dict.fromkeys(("pgd-at", "at-awp", "mart", "proxy"), (label_ce, {})),
    **dict.fromkeys(("las-at", "las-awp"), (label_ce, LAS)),
    **dict.fromkeys(("kl", "trades", "trades-awp", "acat", "dajat", "hat"), (kl, {})),
    **dict.fromkeys(("gowal", "rebuffi", "wang-dm"), (kl, {})),
    "lbgat": (kl, {"natural_arch": "resnet8"}),
    "las-trades": (kl, LAS),
    "dkl": (soft_ce, {}),
    "dkl-ba": (decoupled(own), WEIGHTS),
    "dkl-ba-const": (decoupled(constant), WEIGHTS),
    **dict.fromkeys(("ikl", "gkl"), (decoupled(of_class), WEIGHTS)),
    "score": (squared_distance, {}),
}


def adversarial_methods() -> list[str]:
    cards = {name: METHODS.get(name).card for name in METHODS.names()}
    return [name for name, card in cards.items() if card.family == "adversarial"]


@pytest.mark.parametrize("method", adversarial_methods())
def test_attack_maximises_its_formula(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    formula, params = OBJECTIVES[method]
    task = make_task(method, **params)
    if hasattr(task, "class_means"):
        task.class_means.matrix_CC = CLASS_MEANS
    with torch.no_grad():
        # Predictions far from uniform, or all divergences would point in the same direction.
        for parameter in network.parameters():
            parameter.mul_(3)
        objective = task.attack_objective(network, batch)
        clean = network(batch.x)
    assert objective is not None
    adv = network(batch.adversarial).detach().requires_grad_()
    found, expected = objective(adv), formula(clean, adv, batch.y)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    (gradient,), (right,) = (torch.autograd.grad(value, adv) for value in (found, expected))
    torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-10)


def test_proxy_attacks_as_trades_under_its_loss(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    objective = make_task("proxy", loss="trades").attack_objective(network, batch)
    adv = network(batch.adversarial)
    assert objective is not None
    torch.testing.assert_close(objective(adv), kl(network(batch.x), adv, batch.y))
