"""mart against a transcription of the released loss."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.method import Batch, Task
from harness.registry import METHODS
from methods.adversarial.mart import mart_loss
from tests.methods.conftest import assert_same_loss


def released_loss(clean: Tensor, adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """The loss sample by sample, with the released guards against log 0."""
    total = torch.zeros((), dtype=clean.dtype)
    for i, label in enumerate(y.tolist()):
        nat, rob = clean[i].softmax(0), adv[i].softmax(0)
        rival = max(rob[k] for k in range(len(rob)) if k != label)
        boosted = -rob[label].log() - (1.0001 - rival + 1e-12).log()
        divergence = (nat * (nat.log() - (rob + 1e-12).log())).sum()
        total = total + boosted + beta * divergence * (1.0000001 - nat[label])
    return total / len(y)


def test_loss_is_the_released_one(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    assert METHODS.get("mart").card.released_names == {"kl_weight": "beta"}
    loss = make_task("mart", kl_weight=5.0).loss(network, batch).loss
    expected = released_loss(network(batch.x), network(batch.adversarial), batch.y, beta=5.0)
    assert_same_loss(loss, expected, network, rtol=1e-6, atol=1e-7)


def test_a_certain_rival_stays_finite() -> None:
    adv = torch.tensor([[-1000.0, 1000.0]], requires_grad=True)
    parts = mart_loss(torch.tensor([[0.0, 0.0]]), adv, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(parts.bce + parts.kl, adv)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(parts.bce)
