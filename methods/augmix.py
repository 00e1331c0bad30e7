"""AugMix: consistent predictions for an image and its mixtures (Hendrycks et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from pydantic import Field
from torch import Tensor

from harness.compat import import_torchvision
from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task
from methods._papers import cite
from methods._recipes import SMALL, Overrides, by_dataset, natural
from methods._steps import detached
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import jensen_shannon

VIEWS = 2


@cache
def _mixer(severity: int, width: int) -> Callable[[Tensor], Tensor]:
    """The AugMix transform without the operations that overlap with common corruptions."""
    transforms = import_torchvision("torchvision.transforms")
    made: Callable[[Tensor], Tensor] = transforms.AugMix(
        severity=severity, mixture_width=width, all_ops=False
    )
    return made


def augmixed(x: Tensor, severity: int, width: int) -> Tensor:
    """Mix each image with ``width`` chains of one to three operations.

    Random numbers come from torch's global CPU generator, which the engine seeds in each epoch.

    Args:
        x: images [B, K, H, W] in [0, 1].
        severity: the strength of the operations, 1 to 10.
        width: number of chains.

    Returns:
        Images of the shape, dtype and device of ``x``, multiples of 1/255; torchvision rounds
        mixtures down.
    """
    mixer = _mixer(severity, width)
    pixels = (x * 255).round().to("cpu", torch.uint8)
    return (torch.stack([mixer(image) for image in pixels]).to(x.dtype) / 255).to(x.device)


class MixtureParams(Params):
    """Strength of the operations and number of chains in a mixture."""

    severity: int = Field(3, ge=1, le=10)
    width: int = Field(3, ge=1)


class AugmixParams(MixtureParams):
    """Weight of the divergence, and the settings of the mixtures."""

    js_weight: float = Field(12.0, ge=0)


class AugmixTask(Task):
    """Consistency loss; an image and its mixtures pass through the model in one batch."""

    def predictions(self, model: Forward, batch: Batch) -> Sequence[Tensor]:
        """Logits [B, C] of the images and of each mixture."""
        views = [augmixed(batch.x, self.params.severity, self.params.width) for _ in range(VIEWS)]
        return model(torch.cat([batch.x, *views])).chunk(1 + VIEWS)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o, y) + js_weight JS of the images' and the mixtures' predictions."""
        predictions = self.predictions(model, batch)
        ce, js = label_cross_entropy(predictions[0], batch.targets), jensen_shannon(predictions)
        return StepOutput(ce + self.params.js_weight * js, detached(ce=ce, js=js))


def training(dataset: str) -> Overrides:
    """The released training: 100 epochs of a WRN-40-2 with Nesterov momentum."""
    base = natural(dataset)
    # Robustness to common corruptions is measured without attacks.
    base = merge(base, {"evaluation": {"attacks": []}})
    if dataset in SMALL:
        return base
    released: Overrides = {
        "model": {"arch": "wrn-40-2", "normalize": True},
        "training": {"epochs": 100, "optimizer": {"nesterov": True}},
    }
    return merge(base, released)


METHOD = Method(
    card=MethodCard(
        title="AugMix",
        family="natural",
        summary="Trains the model to predict the same for an image and two random mixtures of its "
        "augmentations, which improves robustness to common corruptions.",
        formula=(
            r"\mathrm{CE}(o, y) + \mathtt{js\_weight}\, \frac{1}{3} \sum_{v=0}^{2} "
            r"D_{\mathrm{KL}}(s_v \,\|\, \bar s), \quad \bar s = \frac{1}{3} \sum_v s_v"
        ),
        **cite("hendrycks2020augmix"),
        notes=(
            "The method targets common corruptions: the command corrupt measures robustness to "
            "them on CIFAR-10-C and CIFAR-100-C. The recipes evaluate clean accuracy only.",
            "torchvision's AugMix makes the mixtures from the cropped and flipped image, with the "
            "paper's nine operations that no corruption uses. It draws strengths from ten levels "
            "and rounds mixtures down to multiples of 1/255; the released code draws from a "
            "continuous range and does not round mixtures.",
            "The released divergence clamps the mean prediction at 1e-7; here it is not clamped. "
            "The released code lowers the learning rate after each step, and standardises images "
            "with mean 0.5 and standard deviation 0.5.",
        ),
        released_names={"severity": "aug_severity", "width": "mixture_width"},
    ),
    params=AugmixParams,
    task=AugmixTask,
    recipes=by_dataset(training),
)
