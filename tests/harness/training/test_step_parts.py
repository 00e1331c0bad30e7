"""Inner attack, weight perturbation, averaging and network modes against their definitions."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.config import AveragingConfig, InnerAttackConfig
from harness.models import build_model
from harness.training.averaging import WeightAverage
from harness.training.inner_attack import pgd
from harness.training.modes import (
    ReplicaForward,
    attack_mode,
    compiled,
    frozen_parameters,
    frozen_statistics,
)
from harness.training.schedules import InnerSchedule
from harness.training.weight_perturbation import perturbation, perturbed


def small_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 5)
    )


def images(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(count, 3, 8, 8, generator=generator)
    return x, torch.randint(5, (count,), generator=generator)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("start", ["gaussian", "uniform", "clean"])
def test_attack_equals_a_plain_transcription(start):
    model, (x, y) = small_net().eval(), images()
    config, schedule = InnerAttackConfig(start=start), InnerSchedule(0.1, 0.03, 4)
    found = pgd(
        model,
        lambda logits: cross_entropy(logits, y),
        x,
        schedule,
        config,
        torch.Generator().manual_seed(3),
    )
    generator = torch.Generator().manual_seed(3)
    if start == "gaussian":
        expected = x + 0.001 * torch.empty_like(x).normal_(generator=generator)
    elif start == "uniform":
        expected = (x + torch.empty_like(x).uniform_(-0.1, 0.1, generator=generator)).clamp(0, 1)
    else:
        expected = x.clone()
    for _ in range(4):
        expected = expected.detach().requires_grad_(True)
        cross_entropy(model(expected), y).backward()
        stepped = expected + 0.03 * expected.grad.sign()
        expected = torch.min(torch.max(stepped, x - 0.1), x + 0.1).clamp(0, 1)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-7)
    assert float((found - x).abs().max()) <= 0.1 + 1e-6
    assert cross_entropy(model(found), y) > cross_entropy(model(x), y)


@pytest.mark.parametrize(
    ("mode", "moves_statistics", "uses_batch"),
    [("eval", False, False), ("train", True, True), ("train-frozen", False, True)],
)
def test_attack_modes(mode, moves_statistics, uses_batch):
    model, (x, _) = small_net().train(), images()
    before, in_eval = state(model), deepcopy(model).eval()(x)
    with attack_mode(model, mode):
        logits = model(x)
        training_inside = model.training
    assert training_inside == uses_batch
    assert model.training
    assert torch.equal(model[1].running_mean, before["1.running_mean"]) != moves_statistics
    assert torch.allclose(logits, in_eval) != uses_batch


def test_attack_mode_restores_a_layer_that_was_in_eval():
    model = small_net().train()
    model[1].eval()
    with attack_mode(model, "train"):
        assert model[1].training
    assert not model[1].training
    assert model[0].training


def test_frozen_statistics_leaves_an_eval_network_alone():
    model, (x, _) = small_net().eval(), images()
    model[1].running_mean += 0.5
    expected = model(x)
    with frozen_statistics(model):
        assert torch.equal(model(x), expected)


def test_frozen_parameters_need_no_gradient_within_the_block():
    model, (x, _) = small_net(), images()
    model[0].bias.requires_grad_(False)
    with frozen_parameters(model):
        assert not model(x).requires_grad
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"0.weight", "1.weight", "1.bias", "4.weight", "4.bias"}


def test_perturbation_has_norm_gamma_times_the_weights_and_points_uphill():
    model, (x, y) = small_net().train(), images()
    before = state(model)

    def loss() -> Tensor:
        return cross_entropy(model(x), y)

    offsets = perturbation(model, loss, gamma=0.01)
    assert_same_state(model, before)
    weights = [model[0].weight, model[4].weight]
    gradients = torch.autograd.grad(loss(), weights)
    for offset, weight, gradient in zip(offsets, weights, gradients, strict=True):
        assert float(offset.norm() / weight.detach().norm()) == pytest.approx(0.01, rel=1e-5)
        torch.testing.assert_close(offset, 0.01 * weight.norm() * gradient / gradient.norm())
    before = state(model)
    low = loss().item()
    with perturbed(model, offsets):
        high = loss().item()
    assert high > low
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.data, before[name], rtol=0, atol=1e-7)


def test_perturbation_is_taken_off_after_an_error_and_a_step_survives():
    model = small_net()
    before = model[0].weight.detach().clone()
    offsets = [torch.ones_like(model[0].weight), torch.ones_like(model[4].weight)]

    def step_then_stop() -> None:
        with perturbed(model, offsets):
            model[0].weight.data += 0.25
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        step_then_stop()
    torch.testing.assert_close(model[0].weight.data, before + 0.25)


def test_average_is_the_recurrence_and_integers_stay_integers():
    model, (x, _) = small_net().train(), images()
    average = WeightAverage(model, AveragingConfig(kind="epoch", decay=0.9, start_epoch=2))
    assert average.model is model
    expected = None
    for epoch in range(1, 6):
        with torch.no_grad():
            model(x)
            model[4].weight += 0.1
        average.after_step(epoch)
        average.after_epoch(epoch)
        now = state(model)
        if epoch == 2:
            expected = now
        elif epoch > 2:
            assert expected is not None
            expected = {
                name: 0.9 * expected[name] + 0.1 * now[name]
                for name in now
                if now[name].is_floating_point()
            }
    assert expected is not None
    averaged = average.model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(averaged[name], tensor)
    assert averaged["1.num_batches_tracked"].dtype == torch.int64
    assert int(averaged["1.num_batches_tracked"]) == 5


@pytest.mark.parametrize("count", [0, 7, 390, 78_200])
@pytest.mark.parametrize(
    "settings",
    [{"decay": 0.995}, {"decay": 0.9}, {"decay_warmup": True}, {"buffers": "live"}],
    ids=str,
)
def test_average_of_a_constant_model_is_that_model(settings, count):
    model = small_net()
    model[1].num_batches_tracked.fill_(count)
    average = WeightAverage(model, AveragingConfig(kind="step", **settings))
    for _ in range(50):
        average.after_step(1)
    for name, tensor in average.model.state_dict().items():
        expected = model.state_dict()[name]
        assert tensor.dtype == expected.dtype
        torch.testing.assert_close(tensor, expected)
    assert int(average.model.state_dict()["1.num_batches_tracked"]) == count


def test_replicas_normalise_their_parts_and_the_first_moves_the_statistics():
    model, (x, _) = small_net().train(), images(8)
    reference = deepcopy(model)
    logits = ReplicaForward(model, 4)(x)
    expected = [reference(x[:2])]
    for part in x[2:].chunk(3):
        expected.append(deepcopy(reference)(part))
    torch.testing.assert_close(logits, torch.cat(expected))
    assert_same_state(model, state(reference))


@pytest.mark.parametrize("replicas", [1, 4])
def test_replicas_show_the_features_of_their_forward_pass(replicas):
    x, _ = images(8)
    model = build_model("resnet8", 5, 3, 8).train()
    plain, shown = deepcopy(model), deepcopy(model)
    logits = ReplicaForward(plain, replicas)(x)
    features = ReplicaForward(shown, replicas).features(x)
    assert torch.equal(features.logits, logits)
    assert_same_state(shown, state(plain))
    assert [len(stage) for stage in (*features.stages, *features.preacts)] == [8] * 8
    torch.testing.assert_close(shown.fc(features.pooled), logits)


def test_compiled_features_are_those_of_the_model(monkeypatch):
    """Both passes are compiled, and the compiled network shares the student's weights."""
    seen = []

    def eager(function: object) -> object:
        seen.append(function)
        return compile_with(function, backend="eager")

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", eager)
    x, _ = images(8)
    model = build_model("resnet8", 5, 3, 8).train()
    expected = deepcopy(model).features(x)
    features = compiled(ReplicaForward(model, 1)).features(x)
    assert len(seen) == 2
    torch.testing.assert_close(features.logits, expected.logits)
    torch.testing.assert_close(features.preacts, expected.preacts)
    features.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
