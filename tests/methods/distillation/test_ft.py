"""FT against a plain transcription of its networks and its two losses."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from harness.registry import METHODS
from methods.distillation.ft import factor_loss
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step
from tests.methods.losses.transcriptions import attention_map, batch_norm


def coded(maps: Tensor, layers: nn.Sequential) -> Tensor:
    """Apply convolutions, BatchNorms if present, and leaky ReLUs.

    A transposed convolution of stride 1 is a convolution with the mirrored kernel.
    """
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            kernel = layer.weight.flip(2, 3).transpose(0, 1)
            maps = conv2d(maps, kernel, layer.bias, padding=1)
        elif isinstance(layer, nn.Conv2d):
            maps = conv2d(maps, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, nn.BatchNorm2d):
            maps = batch_norm(maps, layer)
        else:
            maps = torch.where(maps > 0, maps, 0.1 * maps)
    return maps


def test_first_stage_reconstructs_the_teachers_map_without_the_student(step: Step) -> None:
    step.batch.epoch = 4
    task = step.make_task("ft", paraphrase_weight=0.3)
    t = step.teacher_features.stages[-1]
    rebuilt = coded(coded(t, task.paraphrase), task.reconstruct)
    expected = 0.3 * ((rebuilt - t) ** 2).sum() / t.numel()
    assert_same_loss(step.loss(task), expected, *step.student.leaves(), task)


def test_second_stage_is_the_plain_loss(step: Step) -> None:
    """The paraphraser is no longer trained."""
    task = step.make_task("ft", label_weight=0.5, factor_weight=30.0)
    s, t = step.student.outputs.stages[-1], step.teacher_features.stages[-1]
    one = attention_map(coded(s, task.translate))
    other = attention_map(coded(t, task.paraphrase).detach())
    expected = 0.5 * cross_entropy(step.student.outputs.logits, step.batch.y)
    expected = expected + 30.0 * (one - other).abs().sum() / one.numel()
    assert_same_loss(step.loss(task), expected, *step.student.leaves(), task)
    step.loss(task).backward()
    assert all(parameter.grad is None for parameter in task.paraphrase.parameters())


def test_networks_have_the_released_shape(step: Step) -> None:
    """The code has half of the teacher's 20 channels; only the translator has BatchNorms."""
    task = step.make_task("ft")
    shapes = [
        [tuple(layer.weight.shape[:2]) for layer in coder if hasattr(layer, "kernel_size")]
        for coder in (task.paraphrase, task.reconstruct, task.translate)
    ]
    assert shapes == [
        [(20, 20), (10, 20), (10, 10)],
        [(10, 10), (10, 20), (20, 20)],
        [(7, 7), (10, 7), (10, 10)],
    ]
    norms = [sum(isinstance(each, nn.BatchNorm2d) for each in coder) for coder in task.children()]
    assert norms == [0, 0, 3]


@pytest.mark.parametrize(("pair", "weight"), [("wrn-40-2-wrn-16-2", 0.2), ("vgg13-vgg8", 1.0)])
def test_paraphrase_has_the_released_step_size(pair: str, weight: float) -> None:
    """The step size is 0.01 for the wide student, and the run's 0.05 for VGG."""
    recipe = METHODS.get("ft").recipes[f"table5/{pair}"]()
    assert recipe.get("params", {}).get("paraphrase_weight", 0.2) == weight


def test_the_larger_factor_is_pooled() -> None:
    torch.manual_seed(1)
    small, large = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)
    pooled = large.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    expected = (attention_map(small) - attention_map(pooled)).abs().mean()
    torch.testing.assert_close(factor_loss(small, large), expected)
