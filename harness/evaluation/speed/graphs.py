"""Record a network's passes as CUDA graphs at a few batch sizes, and replay them.

An attack makes thousands of passes of many small kernels each, and the GPU is idle while it waits
for the next launch. A replay launches all kernels of a pass at once.
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
# A replay runs the recorded kernels. Its errors, such as logits of the recording's images, are far
# larger than this.
REPLAY_TOLERANCE = 0.01


class RecordedNetwork:
    """A frozen network in eval mode that replays recorded passes at the batching's graph sizes.

    A replay overwrites the logits of the previous replay of that size, and the tensors its backward
    pass needs: copy the logits, and run backward before the next pass. Batches of other sizes run
    through the network without a recording.

    Args:
        network: maps images [B, K, H, W] to logits [B, C].
        batching: how batches are split; recordings for sizes above its limit are dropped and their
            memory is freed.
    """

    def __init__(self, network: PassFn, batching: Batching) -> None:
        """Record nothing yet: the first call does, when it has images on their device."""
        self._network, self._batching = network, batching
        self._passes: dict[int, PassFn] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, C], which the next call may overwrite."""
        sizes = self._batching.usable_sizes
        if tuple(self._passes) != sizes:
            self._passes = {size: each for size, each in self._passes.items() if size in sizes}
            gc.collect()  # torch's recordings are in reference cycles and hold GPU memory
            self._passes = {
                size: self._passes.get(size) or recorded(self._network, resized(images, size))
                for size in sizes
            }
        return self._passes.get(len(images), self._network)(images)


def resized(images: Tensor, count: int) -> Tensor:
    """Return ``count`` images in the same memory layout: the first ones, or all repeated."""
    return torch.cat([images.detach()] * -(-count // len(images)))[:count]


def recorded(network: PassFn, images: Tensor) -> PassFn:
    """Record the network's forward and backward passes at this batch size; not on a CPU.

    The arithmetic is that of the attacks; autocast is the caller's.
    """

    def passed(x: Tensor) -> Tensor:
        return network(x.clone())  # the network may write into its input

    if images.device.type != "cuda":
        return passed
    sample = images.detach().clone().requires_grad_()
    with torch.cuda.device(images.device), torch.enable_grad(), pinned("reference"):
        return cast(PassFn, torch.cuda.make_graphed_callables(passed, (sample,)))


def check_replay(replayed: PassFn, plain: PassFn, images: Tensor) -> None:
    """Record a network's passes and compare replays with the network itself.

    Args:
        replayed: the attacked network with recorded passes.
        plain: the attacked network without.
        images: [B, K, H, W], B > 1.

    Raises:
        UserError: the passes cannot be recorded here, or a replay gives a different result.
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
            "leave out evaluation.graph_sizes or give smaller ones; an evaluation started with it "
            "must be continued where they can be recorded"
        ) from error
