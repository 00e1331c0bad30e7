"""FitNet: the student's middle feature map, passed through a convolution, imitates the teacher's.

Source: Romero et al., "FitNets: hints for thin deep nets", ICLR 2015; the convolution is that of
the code released with Tian et al., "Contrastive representation distillation", ICLR 2020. There it
is trained together with the student in one stage, and the two sizes determine its kernel.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from harness.errors import UserError
from methods.losses.precision import float32_or_wider


class HintRegressor(nn.Module):
    """relu(bn(conv(x))), which maps the student's shape to the teacher's."""

    def __init__(
        self,
        student_shape: tuple[int, int],
        teacher_shape: tuple[int, int],
        *,
        advice: str = "choose another pair of networks",
    ) -> None:
        """Choose the convolution for the two shapes.

        Args:
            student_shape: channels and side in pixels of the student's map.
            teacher_shape: those of the teacher's map.
            advice: what the user can do if no convolution is possible.

        Raises:
            UserError: the teacher's map is larger by a factor other than 2.
        """
        super().__init__()
        inputs, side = student_shape
        outputs, teacher_side = teacher_shape
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if side == 2 * teacher_side:
            self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        elif teacher_side == 2 * side:
            self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        elif side >= teacher_side:
            self.conv = nn.Conv2d(inputs, outputs, 1 + side - teacher_side)
        else:
            raise UserError(
                f"no convolution maps the student's {side}x{side} pixels to the teacher's "
                f"{teacher_side}x{teacher_side}: {advice}"
            )
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, student_BKHW: Tensor) -> Tensor:
        """Return the student's map in the teacher's shape."""
        return relu(self.bn(self.conv(student_BKHW)))


def hint_loss(regressed_BKHW: Tensor, teacher_BKHW: Tensor) -> Tensor:
    """The mean squared error over all elements.

    Args:
        regressed_BKHW: the regressor's output.
        teacher_BKHW: the teacher's map of the same shape; no gradient flows into it.

    Returns:
        A scalar >= 0.
    """
    return mse_loss(float32_or_wider(regressed_BKHW), float32_or_wider(teacher_BKHW.detach()))
