"""Every teacher-student pair: published numbers of extra parameters, and all feature losses run.

Networks are on the ``meta`` device, which computes only shapes and raises when a value is read.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from harness.models import build_model
from harness.models.features import FeatureNetwork, Features
from methods.losses.attention import attention_loss
from methods.losses.contrastive import ContrastiveDistillation
from methods.losses.hints import HintRegressor, hint_loss
from methods.losses.overhaul import OverhaulDistillation
from methods.losses.relational import rkd_loss
from methods.losses.review import ReviewDistillation


class Extra(NamedTuple):
    """Published numbers of parameters in addition to the student's; None if not published."""

    hint: int | None
    contrastive: int
    overhaul: int | None
    review: int


PAIRS = {
    ("resnet56", "resnet20"): Extra(1_120, 16_640, 5_600, 114_278),
    ("resnet110", "resnet32"): Extra(1_120, 16_640, 5_600, 114_278),
    ("resnet32x4", "resnet8x4"): Extra(16_768, 65_792, 86_912, 1_808_774),
    ("wrn-40-2", "wrn-16-2"): Extra(4_288, 33_024, 21_952, 453_830),
    ("wrn-40-2", "wrn-40-1"): Extra(2_240, 24_832, 11_200, 216_006),
    ("vgg13", "vgg8"): Extra(66_304, 131_328, 609_024, 9_847_560),
    ("resnet32x4", "shufflenet-v1"): Extra(983_424, 155_904, None, 4_607_366),
    ("wrn-40-2", "shufflenet-v1"): Extra(491_712, 139_520, None, 2_984_646),
    ("vgg13", "mobilenet-v2"): Extra(4_864, 229_632, None, 9_640_712),
    ("resnet50", "mobilenet-v2"): Extra(132_608, 426_240, None, 27_933_192),
    ("resnet32x4", "shufflenet-v2"): Extra(475_520, 164_096, 156_800, 4_195_718),
    ("imagenet-resnet34", "imagenet-resnet18"): Extra(None, 131_328, None, 7_552_904),
    ("imagenet-resnet50", "mobilenet-v1"): Extra(None, 393_472, None, 28_664_328),
}
# Channels (student's, teacher's) of unpublished connectors: a 1x1 convolution, and a BatchNorm with
# two parameters per teacher channel.
OVERHAUL_CHANNELS = {
    ("resnet32x4", "shufflenet-v1"): [(240, 64), (480, 128), (960, 256)],
    ("wrn-40-2", "shufflenet-v1"): [(240, 32), (480, 64), (960, 128)],
    ("vgg13", "mobilenet-v2"): [(12, 128), (16, 256), (48, 512), (160, 512)],
    ("resnet50", "mobilenet-v2"): [(12, 256), (16, 512), (48, 1024), (160, 2048)],
    ("imagenet-resnet34", "imagenet-resnet18"): [(64, 64), (128, 128), (256, 256), (512, 512)],
    ("imagenet-resnet50", "mobilenet-v1"): [(128, 256), (256, 512), (512, 1024), (1024, 2048)],
}


@cache
def shown(name: str) -> tuple[FeatureNetwork, Features]:
    large = name.startswith("imagenet") or name == "mobilenet-v1"
    classes, size = (1000, 224) if large else (100, 32)
    with torch.device("meta"):
        network = build_model(name, classes, 3, size)
        return network, network.features(torch.empty(4, 3, size, size))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(make: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return make(*arguments, **options)


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_every_loss_runs_with_the_published_number_of_parameters(names: tuple[str, str]) -> None:
    published = PAIRS[names]
    (teacher_network, teacher), (student_network, student) = (shown(name) for name in names)
    losses = [attention_loss(student.stages, teacher.stages)]
    losses += rkd_loss(student.pooled, teacher.pooled)

    middle, goal = student.stages[2], teacher.stages[2]
    regressor = on_meta(HintRegressor, middle.shape[1:3], goal.shape[1:3])
    losses.append(hint_loss(regressor(middle), goal))
    assert published.hint in (count(regressor), None)

    pooled = student.pooled.shape[1], teacher.pooled.shape[1]
    for replacement in (False, True):
        labels = torch.arange(20) % 4
        options = {"negatives": 6, "replacement": replacement}
        contrast = ContrastiveDistillation(*pooled, labels, **options).to("meta")
        index = torch.empty(4, dtype=torch.int64, device="meta")
        step = contrast(student.pooled, teacher.pooled, index, index)
        contrast.update(index, step)
        losses.append(step.loss)
        assert count(contrast) == published.contrastive

    norms = teacher_network.batchnorm_before_relu()
    overhaul = on_meta(OverhaulDistillation, student_network.feature_channels, norms)
    losses.append(overhaul(student.preacts, teacher.preacts))
    computed = sum(a * b + 2 * b for a, b in OVERHAUL_CHANNELS.get(names, []))
    assert count(overhaul) == (published.overhaul or computed)

    channels = (
        student_network.feature_channels,
        pooled[0],
        teacher_network.feature_channels,
        pooled[1],
    )
    review = on_meta(ReviewDistillation, *channels)
    losses.append(review(student.stages, student.pooled, teacher.preacts, teacher.pooled))
    assert count(review) == published.review
    if names[1] == "mobilenet-v1":
        assert count(on_meta(ReviewDistillation, *channels, max_middle=256)) == 14_338_056

    assert all(loss.shape == () for loss in losses)


def test_published_overhaul_for_mobilenet_v1_leaves_its_first_stage_out() -> None:
    """The released code treats that stage as the stem, so it connects three stages, not four."""
    (teacher, _), (student, _) = (shown(name) for name in ("imagenet-resnet50", "mobilenet-v1"))
    parts = student.feature_channels[1:], teacher.batchnorm_before_relu()[1:]
    assert count(on_meta(OverhaulDistillation, *parts)) == 2_759_680


@pytest.mark.parametrize(
    "name", ["vgg8", "mobilenet-v2", "shufflenet-v1", "shufflenet-v2", "wrn-16-1", "resnet8"]
)
def test_any_network_can_teach_by_maps_and_learn(name: str) -> None:
    """With actual values, losses are finite and only student and connectors get gradients."""
    teacher, student = (build_model(arch, 10, 3, 16) for arch in (name, "vgg8"))
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        goals = teacher.eval().features(x)
    shown_s = student.features(x)
    overhaul = OverhaulDistillation(student.feature_channels, teacher.batchnorm_before_relu())
    review = ReviewDistillation(
        student.feature_channels, 512, teacher.feature_channels, goals.pooled.shape[1]
    )
    loss = torch.stack(
        [
            1e-3 * overhaul(shown_s.preacts, goals.preacts),
            review(shown_s.stages, shown_s.pooled, goals.preacts, goals.pooled),
            1e3 * attention_loss(shown_s.stages, goals.stages),
            *rkd_loss(shown_s.pooled, goals.pooled),
        ]
    )
    assert bool((loss > 0).all())
    loss.sum().backward()
    for module in (student.stages, overhaul, review):
        assert all(bool(p.grad.isfinite().all()) for p in module.parameters())
    assert all(p.grad is None for p in teacher.parameters())
