"""ReviewKD against plain transcriptions of its fusion and of its loss."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from methods.losses.review import Fusion, ReviewDistillation, hcl_loss


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def grid_mean(x: Tensor, level: int) -> Tensor:
    """The mean of each cell of a grid of ``level`` cells a side, cells overlapping where uneven."""
    side = x.shape[-1]
    edges = [(i * side // level, math.ceil((i + 1) * side / level)) for i in range(level)]
    return torch.stack(
        [x[..., a:b, c:d].mean((-2, -1)) for a, b in edges for c, d in edges], dim=-1
    )


def plain_hcl(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student, teacher, strict=True):
        side = s.shape[-1]
        weights, errors = [1.0], [(s - t).square().mean()]
        for level in (4, 2, 1):
            if level >= side:
                continue
            weights.append(weights[-1] / 2)
            errors.append((grid_mean(s, level) - grid_mean(t, level)).square().mean())
        total = total + sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)
    return total


@pytest.mark.parametrize("sides", [[1], [2], [4], [7], [8], [32, 16, 8, 1], [56, 4, 4, 1]])
def test_hcl_is_the_plain_transcription(sides: list[int]) -> None:
    student = [draw(2, 3, side, side) for side in sides]
    teacher = [draw(2, 3, side, side) for side in sides]
    ours = hcl_loss(student, teacher)
    expected = plain_hcl(student, [t.detach() for t in teacher])
    torch.testing.assert_close(ours, expected)
    found = torch.autograd.grad(ours, student, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(expected, student))
    ours.backward()
    assert all(t.grad is None for t in teacher)


def test_hcl_of_single_places_is_the_mean_square() -> None:
    student, teacher = draw(4, 9, 1, 1), draw(4, 9, 1, 1)
    torch.testing.assert_close(hcl_loss([student], [teacher]), (student - teacher).square().mean())


def test_hcl_of_half_precision_maps_is_computed_in_float32() -> None:
    student, teacher = (draw(2, 3, 8, 8).detach().half() for _ in range(2))
    found = hcl_loss([student], [teacher])
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), plain_hcl([student.double()], [teacher.double()]), rtol=1e-5, atol=1e-6
    )


def nearest(x: Tensor, side: int) -> Tensor:
    places = [i * x.shape[-1] // side for i in range(side)]
    return x[..., places, :][..., places]


def plain_fusion(fusion: Fusion, x: Tensor, residual: Tensor | None, side: int):
    """One fusion, its convolutions as they are, all else spelled out."""
    x = fusion.reduce(x)
    if residual is not None:
        y = nearest(residual, x.shape[-1])
        both = torch.cat([x, y], dim=1)
        logits = torch.einsum("ok,bkhw->bohw", fusion.attend.weight[:, :, 0, 0], both)
        shares = 1 / (1 + (-(logits + fusion.attend.bias.view(1, 2, 1, 1))).exp())
        x = x * shares[:, 0].unsqueeze(1) + y * shares[:, 1].unsqueeze(1)
    x = nearest(x, side)
    return fusion.expand(x), x


def test_review_is_the_plain_chain() -> None:
    """Teacher's maps larger and smaller than the student's, and stems that do not count."""
    channels, sides = [9, 3, 4, 5], [16, 8, 4, 4]
    goals, goal_sides = [9, 6, 7, 8], [16, 16, 2, 8]
    module = ReviewDistillation(channels, 5, goals, 8).double().eval()
    student = [draw(2, k, side, side) for k, side in zip(channels, sides, strict=True)]
    teacher = [draw(2, k, side, side) for k, side in zip(goals, goal_sides, strict=True)]
    pooled, goal_pooled = draw(2, 5), draw(2, 8)
    outputs, residual = [], None
    maps = [*student[1:], pooled[:, :, None, None]]
    for fusion, x, side in zip(
        reversed(module.fusions), reversed(maps), (1, *reversed(goal_sides[1:])), strict=True
    ):
        output, residual = plain_fusion(fusion, x, residual, side)
        outputs.insert(0, output)
    wanted = [t.detach() for t in (*teacher[1:], goal_pooled[:, :, None, None])]
    expected = plain_hcl(outputs, wanted)
    found = module(student, pooled, teacher, goal_pooled)
    torch.testing.assert_close(found, expected)
    inputs = [*student[1:], pooled, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, retain_graph=True),
        torch.autograd.grad(expected, inputs),
    )
    found.backward()
    assert all(x.grad is None for x in (student[0], goal_pooled, *teacher))


def test_fusion_channels_and_initialisation() -> None:
    module = ReviewDistillation([8, 64, 96], 80, [8, 32, 48], 56, max_middle=64)
    assert [fusion.attend is None for fusion in module.fusions] == [False, False, True]
    for fusion in module.fusions:
        for convolution in (fusion.reduce[0], fusion.expand[0]):
            assert convolution.bias is None
            fan_in = convolution.weight[0].numel()
            # Uniform within sqrt(6 / ((1 + a^2) fan_in)) with a = 1.
            bound = math.sqrt(3 / fan_in)
            assert float(convolution.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
        assert fusion.reduce[0].out_channels == 64
    narrow = ReviewDistillation([8, 64, 96], 48, [8, 32, 48], 56)
    assert {fusion.reduce[0].out_channels for fusion in narrow.fusions} == {48}


def test_pooling_of_uneven_grids_is_the_plain_one() -> None:
    """The helper of these tests against the library where cells do not overlap."""
    x = draw(2, 3, 8, 8)
    torch.testing.assert_close(grid_mean(x, 4), avg_pool2d(x, 2).flatten(2))
