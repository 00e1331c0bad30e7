"""BatchNorm over all processes: in each precision it computes what torch's layer does."""

import pytest
import torch
from torch import Tensor, nn

from harness.distributed.group import ProcessGroup
from harness.distributed.sync_batchnorm import SyncBatchNorm, with_sync_batchnorm
from harness.errors import UserError


class Sole:
    """One process, whose sums are the totals."""

    def total(self, values: Tensor) -> Tensor:
        return values


def pair(affine: bool) -> tuple[nn.BatchNorm2d, SyncBatchNorm]:
    torch.manual_seed(1)
    theirs, ours = nn.BatchNorm2d(8, affine=affine), SyncBatchNorm(8, affine=affine)
    if affine:
        theirs.weight.data += torch.rand(8)
        theirs.bias.data += torch.rand(8)
    ours.load_state_dict(theirs.state_dict())
    ours.processes = Sole()  # type: ignore[assignment]
    return theirs, ours


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_is_torchs_layer_for_one_process(dtype, affine):
    """50 x 7 x 7 places are more than bfloat16 can count, and a mean of 30 leaves it few digits."""
    theirs, ours = pair(affine)
    x = (0.5 * torch.randn(50, 8, 7, 7) + 30).to(dtype).requires_grad_()
    copied = x.detach().clone().requires_grad_()
    expected, found = theirs(x), ours(copied)
    assert found.dtype == expected.dtype == dtype
    # A rounding of the type on either side.
    near = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 2e-4 if dtype == torch.float32 else 1e-2}
    torch.testing.assert_close(found, expected, **near)
    for name, buffer in theirs.state_dict().items():
        assert ours.state_dict()[name].dtype == buffer.dtype
        torch.testing.assert_close(ours.state_dict()[name], buffer, rtol=1e-4, atol=1e-5)
    weights = torch.randn(50, 8, 7, 7).to(dtype)
    for output in (expected, found):
        (output * weights).sum().backward()
    near = {"rtol": 1e-4, "atol": 5e-4} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
    torch.testing.assert_close(copied.grad, x.grad, **near)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, **near)


def test_it_trains_under_autocast():
    theirs, ours = pair(True)
    convolution = nn.Conv2d(8, 8, 3, padding=1)
    x = torch.randn(4, 8, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = theirs(convolution(x)), ours(convolution(x))
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)


def test_a_layer_without_running_statistics_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(UserError, match=r"BatchNorm2d\(8, .* train in one process") as caught:
        with_sync_batchnorm(network, ProcessGroup(0, 2))
    assert "\n" not in str(caught.value)
