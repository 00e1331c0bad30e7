"""Each flag is raised by a model built to raise it; a plain trained network raises none."""

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.data import ImageSet
from harness.errors import UserError
from harness.evaluation import probe
from harness.evaluation.analysis import flags
from harness.evaluation.analysis.curves import RISES, SURVIVES
from harness.evaluation.driver import EvaluationResult, evaluate
from harness.store.rundir import RunDirectory
from tests.harness.evaluation.conftest import evaluated

CPU = torch.device("cpu")
SHORT = AttackBudget(n_iter=20, n_queries=200)


class Behind(nn.Module):
    """A network whose logits pass through a function."""

    def __init__(self, inner: nn.Module, after: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.after = inner, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(x), x)


class NoGradientThroughInput(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.nan


def noisy(logits: Tensor, x: Tensor) -> Tensor:
    return logits + 0.01 * torch.randn_like(logits)


def hidden(logits: Tensor, x: Tensor) -> Tensor:
    return logits.detach()


def saturated(logits: Tensor, x: Tensor) -> Tensor:
    return 1e4 * logits


def nan_if_dark(logits: Tensor, x: Tensor) -> Tensor:
    return torch.where((x.flatten(1).mean(1) < 0.31)[:, None], torch.nan, logits)


BUILT = {
    "randomised": (noisy, ("apgd-ce",)),
    "zero-gradients": (hidden, ("apgd-ce",)),
    "softmax-output": (lambda logits, x: logits.softmax(1), ("apgd-ce",)),
    "non-finite": (nan_if_dark, ("apgd-ce",)),
    "square-after-white-box": (hidden, ("apgd-ce", "square")),
    "targeted-gap": (saturated, ("apgd-ce", "apgd-t")),
    "large-eps": (hidden, ("apgd-ce",)),
}


def flagged(
    model: nn.Module, digits: ImageSet, run: RunDirectory, attacks: tuple[str, ...], eps: float
) -> tuple[set[str], EvaluationResult]:
    config = EvalConfig(eps=eps, attacks=attacks, limit=40, budget=SHORT)
    result = evaluated(model, digits, run, config)
    found = run.evaluation(result.evaluation_id).record["flags"]
    assert all(set(flag) == {"name", "detail"} for flag in found)
    return {flag["name"] for flag in found}, result


@pytest.mark.parametrize("name", BUILT)
def test_a_model_built_to_raise_a_flag_raises_it(name, network, digits, new_run):
    after, attacks = BUILT[name]
    names, _ = flagged(Behind(network, after).eval(), digits, new_run("built"), attacks, 0.2)
    assert name in names


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_plain_trained_network_raises_none(norm, network, digits, new_run):
    eps = 0.1 if norm == "Linf" else 0.6
    config = EvalConfig(norm=norm, eps=eps, limit=80, budget=SHORT)
    run = new_run("plain")
    result = evaluated(network, digits, run, config)
    assert run.evaluation(result.evaluation_id).record["flags"] == []


def test_nan_gradients_are_clipped_to_the_ball(network, digits, new_run):
    model = nn.Sequential(SimpleModule(NoGradientThroughInput.apply), network).eval()
    config = EvalConfig(
        norm="L2", eps=0.1, attacks=("apgd-ce",), limit=20, accelerate=False, budget=SHORT
    )
    run = new_run("nan")
    result = evaluated(model, digits, run, config)
    found = {flag["name"] for flag in run.evaluation(result.evaluation_id).record["flags"]}
    assert {"left-ball", "non-finite"} <= found
    assert bool((result.verdicts["distance"] <= 0.1 + 1e-6).all())


class SimpleModule(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_training_mode_is_corrected_and_flagged(network, digits, new_run):
    _, expected = flagged(network.eval(), digits, new_run("eval"), ("apgd-ce",), 0.1)
    network.train()
    try:
        names, result = flagged(network, digits, new_run("train"), ("apgd-ce",), 0.1)
        assert network.training
    finally:
        network.eval()
    assert names == {"train-mode"}
    assert result.verdicts.equals(expected.verdicts)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_images_outside_the_unit_box_are_refused(value, network, digits, new_run):
    class Normalised(ImageSet):
        def images_float(self, indices: Tensor | slice = slice(None)) -> Tensor:
            images = super().images_float(indices)
            images[-1, 0, 0, 0] = value
            return images

    images = Normalised(digits.images[:4], digits.labels[:4], digits.info, "test")
    config = EvalConfig(eps=0.1, attacks=())
    with pytest.raises(UserError, match=r"not in \[0, 1\]: give them unnormalised"):
        evaluate(network, images, config, new_run("outside"), device=CPU)


def test_rules_at_their_edges():
    def stage(attacked: int, broken: int) -> dict[str, int]:
        return {"attacked": attacked, "broken": broken, "left_ball": 0, "not_finite": 0}

    def names(n: int, **stages: dict[str, int]) -> set[str]:
        named = {name.replace("_", "-"): facts for name, facts in stages.items()}
        return {flag.name for flag in flags.flags_from_counts(named, n, 0)}

    white = stage(900, 100)
    assert names(1000, square=stage(800, 300)) == set()
    assert names(1000, apgd_ce=white, apgd_t=stage(360, 100)) == set()
    assert names(1000, apgd_ce=white, apgd_t=stage(800, 200)) == set()
    assert names(1000, apgd_ce=white, apgd_t=stage(400, 101)) == set()
    assert names(1000, apgd_ce=white, apgd_t=stage(400, 120)) == {"targeted-gap"}
    assert names(40, apgd_ce=white, apgd_t=stage(20, 6)) == set()
    assert names(40, apgd_ce=white, apgd_t=stage(20, 10)) == {"targeted-gap"}


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        ("apgd-ce,square", {"square-after-white-box"}),
        ("square,apgd-ce", set()),
        ("square,fab-t,apgd-t", set()),
        ("fab-t,square,apgd-ce", {"square-after-white-box"}),
        ("apgd-ce,apgd-t", {"targeted-gap"}),
        ("apgd-t,apgd-ce", set()),
        ("apgd-ce,square,apgd-t", {"square-after-white-box", "targeted-gap"}),
        ("apgd-t,square,apgd-ce", {"square-after-white-box"}),
    ],
)
def test_a_stage_is_held_against_those_that_ran_before_it(attacks, expected):
    stage = {"attacked": 400, "broken": 200, "left_ball": 0, "not_finite": 0}
    stages = dict.fromkeys(attacks.split(","), stage)
    assert {flag.name for flag in flags.flags_from_counts(stages, 1000, 0)} == expected


def test_square_that_ran_first_says_nothing_of_gradients(network, digits, new_run):
    model = Behind(network, hidden).eval()
    names, result = flagged(model, digits, new_run("first"), ("square", "apgd-ce"), 0.2)
    assert (result.verdicts["broken_by"] == "square").sum() > 1
    assert "square-after-white-box" not in names


@pytest.mark.parametrize(
    ("n", "allowed", "too_many"), [(40, 0, 2), (360, 1, 3), (1000, 5, 6), (10_000, 28, 29)]
)
def test_squares_bar_allows_for_the_number_of_images(n, allowed, too_many):
    def names(broken: int) -> list[str]:
        stages = {
            name: {"attacked": n, "broken": count, "left_ball": 0, "not_finite": 0}
            for name, count in (("apgd-ce", 0), ("square", broken))
        }
        return [flag.name for flag in flags.flags_from_counts(stages, n, 0)]

    def at_least(count: int) -> float:
        """Probability of so many or more where the true share is 0.2%, term by term."""
        return 1 - sum(math.comb(n, k) * 0.002**k * 0.998 ** (n - k) for k in range(count))

    assert names(allowed) == []
    assert names(too_many) == names(too_many + 5) == ["square-after-white-box"]
    assert at_least(too_many) < 0.05 <= at_least(allowed)


def test_batchnorm_in_training_mode_is_named():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    assert probe.train_mode(model) == []
    model[1].train()
    for given, name in ((model, "1"), (nn.Linear(2, 2), "model")):
        (flag,) = probe.train_mode(given)
        assert flag.name == "train-mode"
        assert f"in training mode ({name}) " in flag.detail


def test_the_docs_explain_every_flag() -> None:
    root = Path(__file__).parents[4]
    calls = (
        node.args[0]
        for path in (root / "harness" / "evaluation").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Flag"
    )
    names = {RISES, SURVIVES} | {name.value for name in calls if isinstance(name, ast.Constant)}
    rows = re.findall(r"^  \| (`.+?`) \|", (root / "docs" / "evaluation.md").read_text(), re.M)
    assert sorted(re.findall(r"`(.+?)`", " ".join(rows))) == sorted(names)
