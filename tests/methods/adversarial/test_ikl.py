"""ikl and gkl against plain transcriptions of the released losses, with the released names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

from harness.method import Batch, StepOutput, Task
from harness.registry import METHODS
from tests.methods.conftest import Recorder, assert_same_loss

# Distinct values, so that a swap of any two is detected.
PARAMS = {"wmse_weight": 20.0, "ce_weight": 3.0, "temperature": 2.5}


def released_loss(
    clean: Tensor,
    adv: Tensor,
    y: Tensor,
    class_matrix: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float = 1.0,
) -> Tensor:
    """The loss of the released trainers, in terms of their option names."""
    prior = class_matrix.double()[y] ** gamma
    squares = torch.zeros((), dtype=clean.dtype)
    normaliser = torch.zeros((), dtype=clean.dtype)
    for i in range(len(y)):
        delta = clean[i] - adv[i]
        pair_weights = torch.outer(prior[i], prior[i])
        squares = squares + ((delta[:, None] - delta[None, :]) ** 2 * pair_weights).sum()
        normaliser = normaliser + pair_weights.sum()
    mse = squares / 4 / normaliser
    sce = -(softmax(clean, 1).detach() * log_softmax(adv, 1)).sum(1).mean()
    return cross_entropy(clean, y) + beta * mse + alpha * sce


def by_released_names(method: str, params: dict[str, float]) -> dict[str, float]:
    names = METHODS.get(method).card.released_names
    return {names[ours]: value for ours, value in params.items()}


def train_one_epoch(task: Task, network: nn.Module, batch: Batch) -> StepOutput:
    """Two observed steps and the end of the epoch, so that class means are no longer uniform."""
    for _ in range(2):
        output = task.loss(network, batch)
        task.observe(batch, output)
    task.end_epoch(1)
    return output


@pytest.mark.parametrize(
    ("method", "params"),
    [("ikl", PARAMS), ("gkl", {**PARAMS, "power": 1.0}), ("gkl", {**PARAMS, "power": 0.4})],
)
@pytest.mark.parametrize("epoch", [1, 2])
def test_loss_is_the_released_one(
    network: nn.Module,
    batch: Batch,
    make_task: Callable[..., Any],
    method: str,
    params: dict[str, float],
    epoch: int,
) -> None:
    released = by_released_names(method, params)
    task = make_task(method, **params)
    if epoch == 2:
        train_one_epoch(task, network, batch)
    clean, adv = network(batch.x), network(batch.adversarial)
    expected = released_loss(
        clean,
        adv,
        batch.y,
        task.class_means.matrix_CC,
        alpha=released["alpha"],
        beta=released["beta"],
        gamma=released.get("gamma", 1.0),
    )
    loss = task.loss(network, batch).loss
    # Rows of the float32 class means sum to one only up to float32 precision.
    assert_same_loss(loss, expected, network, rtol=1e-6, atol=1e-7)


def test_class_means_are_the_released_ones(
    network: nn.Module, batch: Batch, make_task: Callable[..., Any]
) -> None:
    """They are gathered over the epoch at the released T, and uniform until its end."""
    released = by_released_names("ikl", {"temperature": 2.5, "class_mean_momentum": 1.0})
    assert released == {"T": 2.5, "m": 1.0}
    task = make_task("ikl", **PARAMS)
    predictions = softmax(network(batch.x).detach() / released["T"], 1)
    expected = torch.full((7, 7), 1 / 7, dtype=torch.float64)
    torch.testing.assert_close(task.class_means.matrix_CC.double(), expected)
    for label in batch.y.unique():
        expected[label] = predictions[batch.y == label].mean(0)
    train_one_epoch(task, network, batch)
    matrix = task.class_means.matrix_CC.double()
    torch.testing.assert_close(matrix, expected, rtol=1e-5, atol=1e-6)


def test_only_observe_and_end_epoch_change_the_task(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    """Weight perturbation evaluates the loss twice per step, which must not count twice."""
    task = make_task("ikl")
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.attack_objective(network, batch)
    task.loss(network, batch)
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name])
    output = train_one_epoch(task, network, batch)
    assert any(not torch.equal(task.state_dict()[name], old) for name, old in before.items())
    assert not any(tensor.requires_grad for tensor in (output.parts | output.extras).values())


def test_class_means_are_part_of_a_checkpoint(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    trained, resumed = make_task("ikl"), make_task("ikl")
    train_one_epoch(trained, network, batch)
    fresh = resumed.loss(network, batch).loss
    resumed.load_state_dict(trained.state_dict())
    loss = trained.loss(network, batch).loss
    assert torch.equal(resumed.loss(network, batch).loss, loss)
    assert not torch.equal(fresh, loss)


@pytest.mark.parametrize("method", ["ikl", "gkl", "dkl-ba"])
@pytest.mark.parametrize("seed", range(5))
def test_cross_entropy_alone_attacks_as_trades_does(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str, seed: int
) -> None:
    """Every sign of the step is the same in float32, and weight 0 removes the weighted MSE."""
    torch.manual_seed(seed)
    network = network.float()
    with torch.no_grad():
        # Make the network far from linear, or all divergences would point in the same direction.
        for parameter in network.parameters():
            parameter.mul_(5)
    x = batch.x.float()
    batch = Batch(x=x, y=batch.y, index=batch.index, epoch=1)
    tasks = [
        make_task("trades"),
        make_task(method, attack_wmse_weight=0.0, attack_ce_weight=1.0),
        make_task(method, attack_wmse_weight=1.0, attack_ce_weight=1.0),
    ]
    start = x + 0.3 * torch.randn_like(x)
    signs = []
    for task in tasks:
        with torch.no_grad():
            objective = task.attack_objective(network, batch)
        assert objective is not None
        x_adv = start.clone().requires_grad_()
        signs.append(torch.autograd.grad(objective(network(x_adv)), x_adv)[0].sign())
    assert torch.equal(signs[0], signs[1])
    assert not torch.equal(signs[0], signs[2])


def test_forward_passes(network: nn.Module, batch: Batch, make_task: Callable[..., Task]) -> None:
    """One clean pass per attack; in the loss, adversarial images come before clean ones."""
    recorder = Recorder(network)
    task = make_task("ikl")
    objective = task.attack_objective(recorder, batch)
    assert objective is not None
    for _ in range(3):
        objective(network(batch.adversarial))
    assert [x is batch.x for x in recorder.seen] == [True]
    recorder.seen.clear()
    task.loss(recorder, batch)
    assert [x is batch.x for x in recorder.seen] == [False, True]
