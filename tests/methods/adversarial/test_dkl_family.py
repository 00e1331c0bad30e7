"""dkl, dkl-ba and dkl-ba-const."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.method import Batch, Task
from harness.registry import METHODS
from tests.methods.conftest import assert_same_loss
from tests.methods.losses.transcriptions import pairwise_mse


def expected_loss(method: str, m: Tensor, n: Tensor, y: Tensor, params: dict[str, float]) -> Tensor:
    own = softmax(m, 1).detach()
    wmse = {
        "dkl": pairwise_mse(m, n.detach(), own),
        "dkl-ba": pairwise_mse(m, n, own),
        "dkl-ba-const": pairwise_mse(m, n, torch.full_like(own, 1 / m.shape[1])),
    }[method].mean()
    ce = -(own * log_softmax(n, 1)).sum(1).mean()
    return cross_entropy(m, y) + params["wmse_weight"] * wmse + params["ce_weight"] * ce


@pytest.mark.parametrize("method", ["dkl", "dkl-ba", "dkl-ba-const"])
def test_loss_is_its_formula(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    params = {"wmse_weight": 5.0, "ce_weight": 2.0}
    output = make_task(method, **params).loss(network, batch)
    clean, adv = network(batch.x), network(batch.adversarial)
    expected = expected_loss(method, clean, adv, batch.y, params)
    assert_same_loss(output.loss, expected, network, rtol=1e-12, atol=1e-12)


def test_dkl_trains_as_kl(network: nn.Module, batch: Batch, make_task: Callable[..., Task]) -> None:
    """By default, DKL has the gradients of the KL baseline in training and in the attack."""
    kl, dkl = make_task("kl"), make_task("dkl")
    parameters = list(network.parameters())
    by_kl, by_dkl = (
        torch.autograd.grad(task.loss(network, batch).loss, parameters) for task in (kl, dkl)
    )
    torch.testing.assert_close(by_dkl, by_kl, rtol=1e-10, atol=1e-10)
    adv = network(batch.adversarial).detach().requires_grad_()
    with torch.no_grad():
        objectives = [task.attack_objective(network, batch) for task in (kl, dkl)]
    steps = [torch.autograd.grad(objective(adv), adv)[0] for objective in objectives if objective]
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["dkl-ba", "dkl-ba-const", "ikl", "gkl"])
def test_an_attack_without_a_gradient_is_refused(method: str) -> None:
    weights = [f"params.attack_{part}_weight=0" for part in ("wmse", "ce")]
    with pytest.raises(UserError, match="both 0, so the attack would have no gradient: make one"):
        resolve(method, assignments=weights)
    assert resolve(method, assignments=weights[:1]).params["attack_ce_weight"] == 1


def test_dkl_and_kl_train_alike_on_small_sets() -> None:
    for dataset in ("digits", "fashion-mnist"):
        kl, dkl = (METHODS.get(name).recipes[dataset]() for name in ("kl", "dkl"))
        assert kl == dkl


def test_constant_weight(batch: Batch, network: nn.Module, make_task: Callable[..., Task]) -> None:
    """The weighted MSE grows with the square of the constant."""
    parts = [
        make_task("dkl-ba-const", class_weight=weight).loss(network, batch).parts["wmse"]
        for weight in (0.01, 0.1)
    ]
    torch.testing.assert_close(parts[1], 100 * parts[0])


def test_constant_weight_is_not_rounded_with_half_precision_logits(
    make_task: Callable[..., Task],
) -> None:
    clean, adv = (torch.randn(6, 7, generator=torch.Generator().manual_seed(k)) for k in (3, 4))
    clean, adv = clean.bfloat16(), adv.bfloat16()
    task = make_task("dkl-ba-const", class_weight=0.01)
    found, expected = task.divergence(clean, adv), task.divergence(clean.float(), adv.float())
    assert found.wmse.dtype == torch.float32
    torch.testing.assert_close(found.wmse, expected.wmse, rtol=1e-6, atol=0)
