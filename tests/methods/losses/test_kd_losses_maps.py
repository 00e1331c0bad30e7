"""Hints and attention against the formulas, and which maps are compared."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from harness.errors import UserError
from methods.losses.attention import attention_loss, attention_map
from methods.losses.hints import HintRegressor, hint_loss
from methods.losses.stages import matched_stages, pooled_to


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ("abcd", "wxyz", ["bx", "cy", "dz"]),
        ("abc", "wxyz", ["by", "cz"]),
        ("abcd", "yz", ["dz"]),
    ],
)
def test_stages_are_matched_from_the_last_without_stems(
    student: str, teacher: str, pairs: list[str]
) -> None:
    assert ["".join(pair) for pair in matched_stages(student, teacher)] == pairs


def test_larger_maps_are_averaged_down() -> None:
    large, small = draw(2, 3, 8, 8), draw(2, 5, 4, 4)
    torch.testing.assert_close(pooled_to(large, small), avg_pool2d(large, 2))
    assert pooled_to(small, large) is small


@pytest.mark.parametrize(
    ("side", "goal", "kind", "kernel"),
    [
        (8, 4, nn.Conv2d, 3),
        (4, 8, nn.ConvTranspose2d, 4),
        (8, 8, nn.Conv2d, 1),
        (8, 6, nn.Conv2d, 3),
        (9, 4, nn.Conv2d, 6),
    ],
)
def test_hint_regressor_reaches_the_teachers_shape(
    side: int, goal: int, kind: type, kernel: int
) -> None:
    regressor = HintRegressor((3, side), (5, goal)).double()
    assert type(regressor.conv) is kind
    assert regressor.conv.kernel_size == (kernel, kernel)
    x = draw(2, 3, side, side)
    output = regressor(x)
    assert output.shape == (2, 5, goal, goal)
    torch.testing.assert_close(output, regressor.bn(regressor.conv(x)).relu())


def test_hint_out_of_reach_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"4x4 pixels .* 9x9: choose another stage"):
        HintRegressor((3, 4), (5, 9))


def test_hint_loss_is_the_mean_square() -> None:
    regressed, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4)
    loss = hint_loss(regressed, teacher)
    difference = (regressed - teacher).detach()
    torch.testing.assert_close(loss, difference.square().sum() / (2 * 3 * 4 * 4))
    loss.backward()
    torch.testing.assert_close(regressed.grad, 2 * difference / difference.numel())
    assert teacher.grad is None


def plain_attention(f: Tensor) -> Tensor:
    rows = []
    for image in f:
        activity = sum(channel**2 for channel in image) / len(image)
        rows.append(activity.flatten() / activity.square().sum().sqrt())
    return torch.stack(rows)


def test_attention_map_is_the_printed_one() -> None:
    f = draw(3, 4, 5, 5)
    torch.testing.assert_close(attention_map(f), plain_attention(f))


def test_attention_loss_is_the_printed_sum() -> None:
    """Equal sizes, a larger student, a larger teacher; stems do not count."""
    student = [draw(2, 3, 9, 9), draw(2, 4, 8, 8), draw(2, 5, 8, 8), draw(2, 6, 2, 2)]
    teacher = [draw(2, 7, 5, 5), draw(2, 8, 8, 8), draw(2, 9, 4, 4), draw(2, 9, 4, 4)]
    expected = torch.zeros((), dtype=torch.float64)
    for s, t in (
        (student[1], teacher[1]),
        (avg_pool2d(student[2], 2), teacher[2]),
        (student[3], avg_pool2d(teacher[3], 2)),
    ):
        expected = expected + (plain_attention(s) - plain_attention(t.detach())).square().mean()
    ours = attention_loss(student, teacher)
    torch.testing.assert_close(ours, expected)
    for a, b in zip(
        torch.autograd.grad(ours, student[1:]),
        torch.autograd.grad(expected, student[1:]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert not any(
        found is not None
        for found in torch.autograd.grad(
            attention_loss(student, teacher), [student[0], *teacher], allow_unused=True
        )
    )


def test_scaling_a_map_does_not_change_attention() -> None:
    student, teacher = ([draw(2, 3, 4, 4) for _ in range(3)] for _ in range(2))
    scaled = [3 * s for s in student]
    torch.testing.assert_close(attention_loss(scaled, teacher), attention_loss(student, teacher))
