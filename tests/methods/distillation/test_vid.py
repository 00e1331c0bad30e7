"""VID against a plain transcription of the Gaussian's log-likelihood."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from harness.errors import UserError
from harness.experiment.resolve import resolve
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def predicted(maps: Tensor, mean: nn.Sequential) -> Tensor:
    """Three linear maps of the channels at each position, with ReLUs in between."""
    for number in (0, 2, 4):
        maps = torch.einsum("ok,bkhw->bohw", mean[number].weight[:, :, 0, 0], maps)
        if number < 4:
            maps = maps.clamp_min(0)
    return maps


def test_loss_is_the_plain_one(step: Step) -> None:
    """The likelihood is that of torch's normal distribution, up to the constant."""
    task = step.make_task("vid", label_weight=0.5, prediction_weight=3.0)
    for predictor in task.predictors:
        nn.init.normal_(predictor.raw_variance)
    student, teacher = step.student.outputs, step.teacher_features
    total = torch.zeros((), dtype=torch.float64)
    stages = zip(student.stages[1:], teacher.stages[1:], task.predictors, strict=True)
    for s, t, predictor in stages:
        variance = (1 + predictor.raw_variance.exp()).log() + 1e-5
        normal = torch.distributions.Normal(
            predicted(s, predictor.mean), variance.sqrt()[:, None, None]
        )
        constant = 0.5 * torch.tensor(2 * torch.pi, dtype=torch.float64).log()
        total = total - (normal.log_prob(t) + constant).mean()
    expected = 0.5 * cross_entropy(student.logits, step.batch.y) + 3.0 * total
    assert_same_loss(step.loss(task), expected, *step.student.leaves(), task)


def test_released_settings(step: Step) -> None:
    task = step.make_task("vid")
    assert (task.params.prediction_weight, task.params.initial_variance) == (1, 5)
    for predictor in task.predictors:
        variance = (1 + predictor.raw_variance.exp()).log() + 1e-5
        assert variance.tolist() == pytest.approx([5.0] * len(variance))


@pytest.mark.parametrize("variance", [2e-5, 0.3, 5.0, 1000.0])
def test_variances_start_at_the_initial_value(step: Step, variance: float) -> None:
    task = step.make_task("vid", initial_variance=variance)
    for predictor in task.predictors:
        found = softplus(predictor.raw_variance.double()) + 1e-5
        assert found.tolist() == pytest.approx([variance] * len(found), rel=1e-6)


def test_the_default_start_is_the_bits_of_the_plain_formula(step: Step) -> None:
    for predictor in step.make_task("vid").predictors:
        assert set(predictor.raw_variance.tolist()) == {
            torch.tensor(math.log(math.expm1(5.0 - 1e-5))).item()
        }


@pytest.mark.parametrize("least", [5.0, 6.0])
def test_a_start_that_is_not_above_the_minimum_is_refused(least: float) -> None:
    with pytest.raises(UserError, match=rf"initial_variance 5 is not more than .* {least:g}: give"):
        resolve("vid", assignments=[f"params.least_variance={least}"])


def test_variances_are_trained(step: Step) -> None:
    task = step.make_task("vid")
    step.loss(task).backward()
    assert all(bool(each.raw_variance.grad.any()) for each in task.predictors)
