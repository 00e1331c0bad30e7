"""One-cycle schedules against torch's, weight decay per parameter, averaging with warm-up."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from harness.config import AveragingConfig, OptimizerConfig, TrainConfig
from harness.training.averaging import WeightAverage
from harness.training.optimizer import build_optimizer, set_epoch
from harness.training.schedules import learning_rate, momentum


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))


@pytest.mark.parametrize(
    ("epochs", "pct_start"), [(400, 0.025), (2400, 0.025), (30, 0.2), (3, 0.3)]
)
def test_onecycle_is_torchs(epochs, pct_start):
    config = OptimizerConfig(
        lr=0.2, schedule="onecycle", pct_start=pct_start, cycle_momentum=True, nesterov=True
    )
    optimizer = torch.optim.SGD(net().parameters(), lr=0.2, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, pct_start=pct_start, total_steps=epochs
    )
    for epoch in range(1, epochs + 1):
        (group,) = optimizer.param_groups
        assert learning_rate(config, epoch, epochs) == pytest.approx(group["lr"], rel=1e-9)
        assert momentum(config, epoch, epochs) == pytest.approx(group["momentum"], rel=1e-9)
        optimizer.step()
        if epoch < epochs:
            scheduler.step()


def test_steps_have_the_rate_and_the_nesterov_momentum_of_their_epoch():
    """Weights after steps on a fixed loss are those of torch's optimiser and scheduler."""
    onecycle = {"schedule": "onecycle", "pct_start": 0.4, "cycle_momentum": True}
    training = TrainConfig.model_validate(
        {"epochs": 5, "optimizer": {"lr": 0.2, "nesterov": True, **onecycle}}
    )
    ours, theirs = net().double(), net().double()
    optimizer = build_optimizer(ours, (), training.optimizer)
    reference = torch.optim.SGD(
        theirs.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        reference, max_lr=0.2, pct_start=0.4, total_steps=5
    )
    x = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    for epoch in range(1, 6):
        set_epoch(optimizer, training, epoch)
        for _ in range(3):
            for model, each in ((ours, optimizer), (theirs, reference)):
                each.zero_grad()
                model(x).square().sum().mul(1e-3).backward()
                each.step()
        if epoch < 5:
            scheduler.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("epochs", "pct_start"), [(1, 0.025), (2, 0.5), (40, 0.025), (5, 0), (5, 1)]
)
def test_onecycle_is_defined_for_every_length(epochs, pct_start):
    config = OptimizerConfig(lr=0.2, schedule="onecycle", pct_start=pct_start)
    rates = [learning_rate(config, epoch, epochs) for epoch in range(1, epochs + 1)]
    assert all(0 < rate <= 0.2 for rate in rates)


def test_momentum_stays_unless_it_is_cycled():
    assert momentum(OptimizerConfig(schedule="onecycle"), 3, 9) == 0.9
    assert momentum(OptimizerConfig(cycle_momentum=True), 3, 9) == 0.9


@pytest.mark.parametrize(
    ("decay", "kept"),
    [
        ("all", set()),
        ("not-norm", {"1.weight", "1.bias"}),
        ("not-norm-or-bias", {"0.bias", "1.weight", "1.bias", "3.bias"}),
    ],
)
def test_weight_decay_acts_on_what_it_names(decay, kept):
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = deepcopy(model.state_dict())
    config = OptimizerConfig(lr=1.0, momentum=0.0, weight_decay=0.1, decay=decay)
    task = nn.Linear(2, 2)
    optimizer = build_optimizer(model, task.parameters(), config)
    for parameter in [*model.parameters(), *task.parameters()]:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if name in kept else 0.9
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_averaging_over_steps_with_warmup_and_live_buffers():
    """The k-th update after the first has decay min(0.3, (1 + k)/(10 + k))."""
    config = AveragingConfig(
        kind="step", decay=0.3, decay_warmup=True, start_fraction=0.25, buffers="live"
    )
    model = net().train()
    average = WeightAverage(model, config, epochs=8)
    expected: torch.Tensor | None = None
    updates = 0
    for epoch in range(1, 9):
        for _ in range(2):
            with torch.no_grad():
                model(torch.rand(6, 3, 8, 8))
                model[3].weight += 0.5
            average.after_step(epoch)
            weight = model[3].weight.detach().clone()
            if epoch <= 2:
                assert average.model is model
            elif expected is None:
                expected = weight
            else:
                updates += 1
                decay = min(0.3, (1 + updates) / (10 + updates))
                expected = decay * expected + (1 - decay) * weight
    assert expected is not None
    averaged = average.model.state_dict()
    assert updates == 11
    torch.testing.assert_close(averaged["3.weight"], expected)
    for name, buffer in model.named_buffers():
        assert torch.equal(averaged[name], buffer), name
