"""The network as the attacks see it: batches cut to fit, passes counted, gradients contiguous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.evaluation.attack.judge import finite
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.plan import image_gradient

Graph = tuple[Tensor, Tensor, int]
T = TypeVar("T")


@dataclass(eq=False)
class AttackModel:
    """A callable from images [B, K, H, W] to logits [B, C], differentiable in the images.

    Attributes:
        network: the network, in eval mode, its parameters frozen.
        num_classes: C.
        batching: how batches are cut; after ``batching.halve`` an attempt that ran out of memory
            may be repeated.
        layout: memory layout of the network's input.
        autocast: the type to compute in, if not float32.
        listener: called after each forward pass with ``forward_images``, or None.
        forward_images: images that went forward, not counting padding and repetitions.
        backward_images: images that went backward.
        repeated_images: images that went forward again since their graph was not kept.
        not_finite: rows of logits so far that were not finite, on the device.

    The network gets a copy of the images, into which it may write.
    """

    network: Callable[[Tensor], Tensor]
    num_classes: int
    batching: Batching
    layout: torch.memory_format = torch.contiguous_format
    autocast: torch.dtype | None = None
    listener: Callable[[int], None] | None = None
    forward_images: int = field(default=0, init=False)
    backward_images: int = field(default=0, init=False)
    repeated_images: int = field(default=0, init=False)
    not_finite: Tensor | int = field(default=0, init=False)
    _passes: int = field(default=0, init=False)

    def reset(self) -> None:
        """Set the counts to zero."""
        self.forward_images = self.backward_images = self.repeated_images = 0
        self.not_finite = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, K, H, W], in a tensor of their own; B may be 0."""
        if not len(x):
            # Attacks pass on the points that are left also when none is; many networks fail there.
            return x.new_zeros(0, self.num_classes)
        if torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _Pieces.apply(x, self)  # type: ignore[no-untyped-call]
        else:
            parts = [self.run(x, piece) for piece in self.batching.pieces(len(x))]
            logits = torch.cat(parts) if len(parts) > 1 else parts[0]
        self.forward_images += len(x)
        self.not_finite += (~finite(logits.detach())).sum()
        if self.listener is not None:
            self.listener(self.forward_images)
        return logits

    def run(self, x: Tensor, piece: tuple[int, int]) -> Tensor:
        """Logits of one piece of the batch, without a graph."""
        with torch.no_grad():
            return self._logits(self._input(x, piece), piece)

    def graph(self, x: Tensor, piece: tuple[int, int]) -> Graph:
        """The network's input and logits of one piece, connected, and the number of the pass."""
        leaf = self._input(x.detach(), piece).requires_grad_()
        with torch.enable_grad():
            return leaf, self._logits(leaf, piece), self._passes

    def is_intact(self, graph: Graph) -> bool:
        """Whether a backward pass through it is still right.

        Of recorded passes the next one overwrites what the backward pass of the one before needs.
        """
        return not self.batching.graph_sizes or graph[2] == self._passes

    def _input(self, x: Tensor, piece: tuple[int, int]) -> Tensor:
        """One piece of the batch as the network takes it: padded, in its layout."""
        part = x[slice(*piece)]
        extra = self.batching.padded(len(part)) - len(part)
        padded = pad(part, (0, 0) * 3 + (0, extra)) if extra else part
        return padded.contiguous(memory_format=self.layout)

    def _logits(self, images: Tensor, piece: tuple[int, int]) -> Tensor:
        self._passes += 1
        enabled = self.autocast is not None
        # Passes are not recorded with the cache. It keeps copies of trainable weights alone.
        with torch.autocast(
            images.device.type, dtype=self.autocast, enabled=enabled, cache_enabled=False
        ):
            logits = self.network(images.clone())[: piece[1] - piece[0]]
        # Attacks write into the logits, which a compiled network owns, and a recorded one reuses.
        return logits.float().clone()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error is a lack of memory, on a GPU or in the machine."""
    words = "not enough memory", "can't allocate memory", "out of memory"
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in words)


def within_memory(
    batching: Batching, count: int, attempt: Callable[[], T], halved: Callable[[], None]
) -> T:
    """The result of an attempt, repeated with half the images at once while memory runs out.

    Args:
        batching: cuts the batches of the attempt.
        count: images in its largest batch.
        attempt: must not depend on the attempts that failed before it.
        halved: called before each repetition.
    """
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if not (out_of_memory(error) and batching.halve(count)):
                raise
        # Outside the handler, where the traceback that held the tensors is gone.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        halved()


class _Pieces(torch.autograd.Function):
    """Forward and backward piece by piece.

    The last pieces keep their graphs, as many as memory allows; the others run forward again, and
    so do those whose graphs another pass overwrote.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: AttackModel) -> Tensor:
        pieces = model.batching.pieces(len(x))
        first_kept = len(pieces) - model.batching.graphs_kept(len(x))
        ctx.model, ctx.pieces, ctx.graphs = model, pieces, {}
        ctx.save_for_backward(x)
        logits = []
        for number, piece in enumerate(pieces):
            if number < first_kept:
                logits.append(model.run(x, piece))
            else:
                ctx.graphs[number] = model.graph(x, piece)
                logits.append(ctx.graphs[number][1].detach())
        return torch.cat(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        model: AttackModel = ctx.model
        # The attacks view gradients as flat rows, which a channels-last tensor does not allow.
        result = torch.empty_like(x, memory_format=torch.contiguous_format)
        for number, piece in reversed(list(enumerate(ctx.pieces))):
            start, stop = piece
            kept = ctx.graphs.pop(number, None)
            if kept is None or not model.is_intact(kept):
                model.repeated_images += stop - start
                kept = model.graph(x, piece)
            leaf, logits, _ = kept
            gradient = image_gradient(logits, leaf, gradients[0][start:stop])
            result[start:stop] = gradient[: stop - start]
        model.backward_images += len(x)
        return result, None
