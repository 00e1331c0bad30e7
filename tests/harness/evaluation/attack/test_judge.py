"""What counts as inside the ball: what an attack's float32 oversteps by, and nothing more."""

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn

from harness.evaluation.attack.images import on_grid
from harness.evaluation.attack.judge import clip_to_ball, effective_eps, perturbation_norm
from harness.evaluation.attack.stages import ZeroGradientCount

SIZES = (8, 32, 224)


def outside(perturbed: Tensor, clean: Tensor, norm: str, eps: float) -> bool:
    _, left = clip_to_ball(perturbed, clean, norm, eps)
    return bool(left.any())


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("size", SIZES)
def test_a_step_of_the_radius_that_is_rounded_is_inside(size, eps):
    """The worst that storing can do: in a flat image all pixels round alike, here outwards."""
    grey = torch.linspace(0.5, 0.55, 199)
    step = eps / (3 * size * size) ** 0.5
    stored = (grey + step).double() - grey.double()
    clean = grey[stored.argmax()].expand(1, 3, size, size)
    assert not outside(clean + step, clean, "L2", eps)


class Watched(nn.Module):
    """A network that looks at patches, and counts the points that are outside the ball."""

    def __init__(self, clean: Tensor, eps: float) -> None:
        super().__init__()
        patch = clean.shape[-1] // 8
        self.features = nn.Conv2d(3, 8, patch, stride=patch)
        self.logits = nn.Linear(8, 4)
        self.clean, self.eps, self.outside = clean, eps, 0

    def forward(self, x: Tensor) -> Tensor:
        self.outside += outside(x.detach(), self.clean, "L2", self.eps)
        return self.logits(self.features(x).square().mean(dim=(2, 3)))


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", SIZES)
def test_where_apgd_goes_is_inside(size, eps):
    """Patches of a flat image have equal gradients, so that their pixels round alike."""
    torch.manual_seed(0)
    clean = torch.full((2, 3, size, size), 0.5)
    network = Watched(clean, eps)
    attack = APGDAttack(
        network, norm="L2", eps=eps, seed=0, device=torch.device("cpu"), verbose=False, n_iter=10,
        n_restarts=1, eot_iter=1, rho=0.75, loss="ce", logger=ZeroGradientCount(),
    )  # fmt: skip
    attack.init_hyperparam(clean)
    attack.attack_single_run(clean, torch.tensor([0, 1]))
    assert not network.outside


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("norm", "eps"),
    [("L2", 0.1), ("L2", 0.5), ("L2", 3.0), ("Linf", 1 / 255), ("Linf", 8 / 255), ("Linf", 0.3)],
)
def test_an_image_a_thousandth_of_the_radius_outside_is_caught(size, norm, eps):
    clean = torch.full((1, 3, size, size), 0.5)
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(clean.shape, generator=generator).sign().double()
    step = 1.001 * eps * step / perturbation_norm(clean + step, clean, norm)
    perturbed = (clean + step).float()
    assert float(perturbed.min()) >= 0
    assert float(perturbed.max()) <= 1
    assert outside(perturbed, clean, norm, eps)
    found, _ = clip_to_ball(perturbed, clean, norm, eps)
    assert not outside(found, clean, norm, eps)
    levels = (clean * 255).round()
    rounded = on_grid(found, levels / 255, norm, eps)
    distance = perturbation_norm(rounded.double() / 255, levels.double() / 255, norm)
    assert float(distance) <= effective_eps(norm, eps, clean.numel())
