"""Passes of a network recorded once as CUDA graphs at a few batch sizes, and replayed.

An attack makes thousands of passes of many small kernels each, and a GPU that waits for the next
launch is idle. A replay launches all kernels of a pass at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from harness.errors import UserError, first_line
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.plan import disagreement, outputs
from harness.evaluation.speed.precision import pinned

PassFn = Callable[[Tensor], Tensor]
# A replay runs the kernels that were recorded. What it gets wrong, such as answering for the images
# of the recording, is wrong by far more.
REPLAY_TOLERANCE = 0.01


class RecordedNetwork:
    """A frozen network in eval mode that replays its passes of the sizes that batches are cut to.

    A replay overwrites the logits, and what the backward pass needs, of the one before it of the
    same size: copy the logits, and go backward before the next pass. Batches of other sizes go
    through the network as they are.

    Args:
        network: maps images [B, K, H, W] to logits [B, C].
        batching: how batches are cut; passes of sizes beyond its limit are forgotten, with the
            memory that they hold.
    """

    def __init__(self, network: PassFn, batching: Batching) -> None:
        """Record nothing yet: the first call does, since it has images on their device."""
        self._network, self._batching = network, batching
        self._passes: dict[int, PassFn] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, C], which the next call may overwrite."""
        sizes = self._batching.usable_sizes
        if tuple(self._passes) != sizes:
            self._passes = {size: each for size, each in self._passes.items() if size in sizes}
            gc.collect()  # torch's recordings are in reference cycles, and hold memory of the GPU
            self._passes = {
                size: self._passes.get(size) or recorded(self._network, resized(images, size))
                for size in sizes
            }
        return self._passes.get(len(images), self._network)(images)


def resized(images: Tensor, count: int) -> Tensor:
    """So many images in the same memory layout: the first ones, or all again and again."""
    return torch.cat([images.detach()] * -(-count // len(images)))[:count]


def recorded(network: PassFn, images: Tensor) -> PassFn:
    """The network's passes forward and backward at this batch size; on a CPU as they are.

    The arithmetic is that of the attacks; autocast is as it is for the caller.
    """

    def passed(x: Tensor) -> Tensor:
        return network(x.clone())  # it may write into its input

    if images.device.type != "cuda":
        return passed
    sample = images.detach().clone().requires_grad_()
    with torch.cuda.device(images.device), torch.enable_grad(), pinned("reference"):
        return cast(PassFn, torch.cuda.make_graphed_callables(passed, (sample,)))


def check_replay(replayed: PassFn, plain: PassFn, images: Tensor) -> None:
    """Record the passes of a network and compare replays with the network as it is.

    Args:
        replayed: the network under attack, with recorded passes.
        plain: the same without.
        images: [B, K, H, W], B > 1.

    Raises:
        UserError: they cannot be recorded here, or a replay gives something else.
    """
    try:
        with pinned("reference"):
            for batch in (images, images.flip(0)):
                found, expected = outputs(replayed, batch), outputs(plain, batch)
                if moved := disagreement(found, expected, REPLAY_TOLERANCE):
                    raise RuntimeError(f"replayed, {moved}")
    except Exception as error:  # a network's own code can raise anything
        raise UserError(
            f"the network's passes cannot be recorded as CUDA graphs here ({first_line(error)}): "
            "leave out evaluation.graph_sizes or give smaller ones; an evaluation that was started "
            "with it must end where they can"
        ) from error
