"""Leave the model, its mode and the global random generators as they were before an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.data.base import ImageSource
from harness.errors import UserError
from harness.models.checkpoint import state_dict_sha256
from harness.models.external.probe import check_float32, evaluating


@contextmanager
def untouched(model: nn.Module) -> Iterator[str]:
    """Put the model in eval mode with frozen parameters for the block, then restore it.

    Yields:
        The hash of its parameters and buffers.

    Raises:
        UserError: a parameter or a buffer is not float32, or the block changed one.
    """
    check_float32(model, "the model")
    before = state_dict_sha256(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:  # one by one: TorchScript modules have no ``requires_grad_``
        parameter.requires_grad_(False)
    try:
        with evaluating(model):
            yield before
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    ensure_unchanged(model, before)


def ensure_unchanged(model: nn.Module, sha256: str) -> None:
    """Check that the model's parameters and buffers still have the hash from before its evaluation.

    Raises:
        UserError: the hash differs.
    """
    if state_dict_sha256(model) != sha256:
        raise UserError(
            "the evaluation changed the model's parameters or buffers, and its result is void: "
            "write a forward pass that does not change them in eval mode"
        )


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators after the block, in which attacks may seed them."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def unit_images(source: ImageSource, positions: Tensor) -> Tensor:
    """Return the images at positions [B] of a split: float32 [B, K, H, W] in [0, 1].

    Raises:
        UserError: a value is outside [0, 1] or not finite, which would change what radii mean.
    """
    images = source.images_float(positions)
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"images of {source.info.name} lie in [{low:.4g}, {high:.4g}], not in [0, 1]: give "
            "them unnormalised, and let the model normalise"
        )
    return images
