"""Targeted attacks on linear networks, of which it is known what a ball reaches.

On a linear network the worst point of an Linf ball towards a class is its corner in the direction
of ``w_target - w_true``, where the margin has shrunk by ``eps`` times the L1 norm of that.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.data import ImageSet
from tests.harness.evaluation.conftest import evaluated

SHORT = AttackBudget(n_iter=10)
EPS = 0.02


def image_set(images: Tensor, labels: Tensor, classes: int, like: ImageSet) -> ImageSet:
    """Square grey images [N, S, S] of integer levels as a test split."""
    levels = images.round().to(torch.uint8)[:, None]
    info = replace(
        like.info, num_classes=classes, image_size=images.shape[-1], class_names=(),
        max_test_size=len(images),
    )  # fmt: skip
    return ImageSet(levels, labels, info, "test")


def linear(weights: Tensor, bias: Tensor) -> nn.Module:
    """A network of these weights [C, S * S] and biases [C]."""
    layer = nn.Linear(weights.shape[1], len(weights))
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def reach(x: Tensor, y: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """The radius [N, C] at which each class overtakes the true one; infinite for that one."""
    logits = x.flatten(1) @ weights.T + bias
    margins = logits.gather(1, y[:, None]) - logits
    lengths = (weights[y][:, None] - weights).abs().sum(2)
    own = nn.functional.one_hot(y, len(weights)).bool()
    return (margins / lengths).masked_fill(own, torch.inf)


@pytest.mark.parametrize("classes", [2, 3])
def test_with_few_classes_it_breaks_exactly_the_images_whose_ball_crosses_a_boundary(
    classes, digits, new_run
):
    generator = torch.Generator().manual_seed(classes)
    random = {"generator": generator, "dtype": torch.float64}
    weights = torch.randn(classes, 36, **random)
    # Levels that no step within the radius takes out of [0, 255].
    images = torch.randint(70, 186, (300, 6, 6), generator=generator).double()
    bias = -0.5 * weights.sum(1)
    y = (images.flatten(1) / 255 @ weights.T + bias).argmax(1)
    radius = reach(images / 255, y, weights, bias).amin(1)
    clear = (radius / EPS - 1).abs() > 0.03
    images, y, breakable = images[clear], y[clear], (radius < EPS)[clear]
    assert 50 < breakable.sum() < len(y) - 50
    assert len(y.unique()) == classes

    config = EvalConfig(eps=EPS, attacks=("apgd-t",), budget=SHORT)
    found = evaluated(
        linear(weights, bias), image_set(images, y, classes, digits), new_run("few"), config
    ).verdicts
    assert set(found["broken_by"].dropna()) == {"apgd-t"}
    assert found["broken_by"].notna().tolist() == breakable.tolist()


# Classes that read blocks of 16 pixels each, the last two of them faintly.
SCALES = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.25, 0.25], dtype=torch.float64)
LEVELS = 20  # of 255, the radius


def one_target_each() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 12, 12] of which the ball reaches one class or none, and which: -1 is none.

    Aiming at another class never breaks an image either. In half of the images a faint class, which
    is out of reach, is the likeliest wrong one.

    Returns:
        Images, labels, targets, weights and biases.
    """
    generator = torch.Generator().manual_seed(0)
    blocks = torch.eye(6, dtype=torch.float64).repeat_interleave(16, 1)
    weights = nn.functional.pad(SCALES[:, None] * blocks, (0, 144 - 96))
    # Of a faint class, this puts the middle level 40 levels behind a true class at 180.
    bias = 16 / 255 * torch.tensor([0, 0, 0, 0, 108, 108], dtype=torch.float64)
    images, labels, targets = [], [], []
    for number in range(48):
        label, target, *others = torch.randperm(4, generator=generator).tolist()
        level = torch.full((6,), 128.0, dtype=torch.float64)
        level[label], level[others[0]], level[others[1]] = 180, 120, 112
        # The true class falls by 20 levels at most and another rises by as many: 35 are in reach.
        within = number % 3 > 0
        level[target] = 180 - 35 if within else 180 - 55
        # A faint class rises by 5, so that 30 are out of reach.
        level[4 + number % 2] = 168 if number % 4 < 2 else 100
        image = (level @ blocks).add(torch.randint(-1, 2, (96,), generator=generator))
        images.append(nn.functional.pad(image, (0, 144 - 96), value=128.0).view(12, 12))
        labels.append(label)
        targets.append(target if within else -1)
    return torch.stack(images), torch.tensor(labels), torch.tensor(targets), weights, bias


@pytest.mark.parametrize(
    ("attack", "accelerate"), [("apgd-t", True), ("fab-t", True), ("fab-t", False)]
)
def test_the_recorded_target_is_the_only_class_within_reach(attack, accelerate, digits, new_run):
    images, y, targets, weights, bias = one_target_each()
    eps = LEVELS / 255
    radius = reach(images / 255, y, weights, bias) / eps
    reached = radius < 0.95
    assert ((radius < 0.95) | (radius > 1.05)).all()
    assert torch.equal(reached.sum(1), (targets >= 0).long())
    assert torch.equal(reached.long().argmax(1)[targets >= 0], targets[targets >= 0])
    logits = images.flatten(1) / 255 @ weights.T + bias
    second = logits.argsort(1)[:, -2]
    likeliest = (second == targets)[targets >= 0]
    assert 10 < likeliest.sum() < len(likeliest) - 10

    config = EvalConfig(
        eps=eps, attacks=(attack,), budget=AttackBudget(n_iter=20), accelerate=accelerate
    )
    found = evaluated(
        linear(weights, bias), image_set(images, y, 6, digits), new_run("aimed"), config
    ).verdicts
    assert found["broken_by"].eq(attack).tolist() == (targets >= 0).tolist()
    assert found["target"].fillna(-1).astype(int).tolist() == targets.tolist()
