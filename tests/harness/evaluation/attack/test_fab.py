"""FAB without sorting against the maintainers' FAB, and its projection in float64."""

from copy import deepcopy

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT

from harness.evaluation.attack.fab import FastFAB, projection

PIXELS = 60


@pytest.fixture
def hyperplanes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points on the grid of 8 bits, normals with zeros, and gaps near, far and out of reach."""
    generator = torch.Generator().manual_seed(0)
    kwargs = {"generator": generator, "dtype": torch.float64}
    point = (torch.rand(64, PIXELS, **kwargs) * 255).round() / 255
    normal = torch.randn(64, PIXELS, **kwargs) * 10 ** torch.linspace(-6, 3, 64)[:, None]
    normal[torch.rand(64, PIXELS, **kwargs) < 0.2] = 0
    normal[0] = 0
    share = torch.logspace(-4, 0.3, 64, dtype=torch.float64)
    gap = normal.abs().sum(dim=1) * share * torch.randn(64, **kwargs).sign()
    return point, normal, gap


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_projection_is_on_the_hyperplane_and_no_step_is_shorter(norm, hyperplanes):
    point, normal, gap = hyperplanes
    step = projection(point, normal, gap, norm)
    moved = point + step
    assert ((moved > -1e-12) & (moved < 1 + 1e-12)).all()
    assert not step[normal == 0].any()
    direction = normal.sign() * gap.sign()[:, None]
    corner = torch.where(direction > 0, 1 - point, torch.where(direction < 0, -point, 0.0))
    reachable = (normal * corner).sum(dim=1).abs() > gap.abs()
    assert 10 < reachable.sum() < 60
    torch.testing.assert_close(step[~reachable], corner[~reachable], rtol=0, atol=1e-15)
    reached = (normal * step).sum(dim=1)
    torch.testing.assert_close(reached[reachable], gap[reachable], rtol=1e-5, atol=0)
    # The conditions of Karush, Kuhn and Tucker: pixels that are not at the edge of the cube move
    # alike in Linf, and in proportion to the normal in L2; those at the edge would move further.
    size = step.abs() / (1 if norm == "Linf" else normal.abs().clamp(min=1e-300))
    inside = (step.abs() < corner.abs() - 1e-12) & (normal != 0)
    for row in reachable.nonzero()[:, 0]:
        common = size[row][inside[row]]
        torch.testing.assert_close(common, common.max().expand_as(common))
        edge = size[row][~inside[row] & (normal[row] != 0)]
        assert (edge <= common.max() * (1 + 1e-9)).all()


@pytest.fixture
def float64(monkeypatch):
    """Makes the maintainers' FAB, which converts to float32, compute in float64.

    In float32, rounding differs between processors and can lead to another adversarial image.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def found_by_both(model, x, y, norm, eps):
    """The images of the maintainers' FAB and of ours, which must break the same ones."""
    reference = FABAttack_PT(
        model, norm=norm, eps=eps, n_iter=20, targeted=True, n_target_classes=3
    )
    ours = FastFAB(model, norm, eps, n_iter=20, n_target_classes=3)
    expected, found = reference.perturb(x, y), ours.perturb(x, y)
    moved = [(each - x).flatten(1).abs().amax(dim=1) > 0 for each in (expected, found)]
    assert torch.equal(*moved)
    assert 3 < moved[0].sum() < 40
    assert torch.equal(ours.broken_by_target >= 0, moved[1])
    return expected, found


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.13), ("L2", 0.9)])
@pytest.mark.parametrize("classes", [10, 100])
def test_it_breaks_what_the_maintainers_fab_breaks(
    norm, eps, classes, network, digits, pair_network, digit_pairs
):
    model, images = (network, digits) if classes == 10 else (pair_network, digit_pairs)
    found_by_both(model, images.images_float(slice(40)), images.labels[:40], norm, eps)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.13), ("L2", 0.9)])
@pytest.mark.parametrize("classes", [10, 100])
def test_it_finds_what_the_maintainers_fab_finds(
    norm, eps, classes, network, digits, pair_network, digit_pairs, float64
):
    trained, images = (network, digits) if classes == 10 else (pair_network, digit_pairs)
    x = images.images_float(slice(40)).double()
    model = deepcopy(trained).double()
    expected, found = found_by_both(model, x, images.labels[:40], norm, eps)
    assert expected.dtype == found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
