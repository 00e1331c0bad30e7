"""The hint regressor: a convolution determined by the two sizes."""

import pytest
import torch
from torch import nn

from harness.errors import UserError
from methods.losses.hints import HintRegressor


@pytest.mark.parametrize(
    ("side", "teacher_side", "kind", "kernel"),
    [
        (8, 4, nn.Conv2d, 3),
        (4, 8, nn.ConvTranspose2d, 4),
        (8, 8, nn.Conv2d, 1),
        (8, 6, nn.Conv2d, 3),
        (9, 4, nn.Conv2d, 6),
    ],
)
def test_regressor_has_the_teachers_shape(
    side: int, teacher_side: int, kind: type, kernel: int
) -> None:
    regressor = HintRegressor((3, side), (5, teacher_side))
    assert type(regressor.conv) is kind
    assert regressor.conv.kernel_size == (kernel, kernel)
    x = torch.randn(2, 3, side, side)
    output = regressor(x)
    assert output.shape == (2, 5, teacher_side, teacher_side)
    torch.testing.assert_close(output, regressor.bn(regressor.conv(x)).relu())


def test_sizes_that_no_convolution_maps_are_the_users_error() -> None:
    with pytest.raises(UserError, match=r"4x4 pixels .* 9x9: choose another pair of networks"):
        HintRegressor((3, 4), (5, 9))
    with pytest.raises(UserError, match=r"4x4 pixels .* 9x9: choose another stage"):
        HintRegressor((3, 4), (5, 9), advice="choose another stage")
