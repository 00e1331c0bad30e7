"""A large batch through a network in eval mode, in pieces whose activations stay in the cache."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, cat, nn

from harness.method import Forward
from harness.training.modes import batchnorms

# What the largest activation of a piece may hold. On two cores, pieces of 8 MiB save an attack in
# batches of 128 on wrn-16-4 15% of its time (21% where channels come first), on preact-resnet18 12%
# (5%), and pieces of 16 images in batches of 64 on wrn-34-10 17%. Smaller pieces cost a small
# network more than they save, and those of 16 MiB save wrn-16-4 but 12% (14%).
TILE_BYTES = 8 * 2**20
# Convolutions lose more on fewer images than the cache gains.
SMALLEST_TILE = 16


class Tiled:
    """Logits [B, C] of images [B, K, H, W], piece by piece.

    The maths is that of the whole batch where no image sees another: in eval mode, and in pieces
    of no more images than ``images_at_once`` allows.
    """

    def __init__(self, forward: Forward, images: int) -> None:
        """Pieces of at most so many images, all alike, as a network is compiled for each size."""
        self.forward = forward
        self.images = images

    def __call__(self, x: Tensor) -> Tensor:
        """See the class."""
        pieces = x.chunk(-(-len(x) // self.images))
        return (
            cat([self.forward(piece) for piece in pieces]) if len(pieces) > 1 else self.forward(x)
        )


def images_at_once(model: nn.Module, images: Tensor) -> int:
    """How many images a piece has, asked of the layers of a network in eval mode.

    A BatchNorm without running statistics takes those of its batch in eval mode too: there no batch
    may be cut.

    Args:
        model: the network.
        images: at least one image [B, K, H, W]; the first is sent through.
    """
    if any(layer.running_mean is None for layer in batchnorms(model)):
        return sys.maxsize
    sizes = [images[:1].nbytes]

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return max(SMALLEST_TILE, TILE_BYTES // max(sizes))
