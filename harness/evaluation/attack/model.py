"""The network as attacks call it: batches split to fit, passes counted, gradients contiguous."""

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
        batching: how batches are split; an attempt that ran out of memory may be repeated after
            ``batching.halve``.
        layout: memory layout of the network's input.
        autocast: the type to compute in, if not float32.
        listener: called after each forward pass with ``forward_images``, or None.
        forward_images: images in forward passes, not counting padding and repetitions.
        backward_images: images in backward passes.
        repeated_images: images passed forward again because their graph was not kept.
        not_finite: number of non-finite rows of logits so far, on the device.

    The network receives a copy of the images, so it may write into its input.
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
        """Return logits [B, C] of images [B, K, H, W] in a new tensor; B may be 0."""
        if not len(x):
            # Attacks may pass an empty batch, on which many networks fail.
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
        """Return the logits of one piece of the batch, without a graph."""
        with torch.no_grad():
            return self._logits(self._input(x, piece), piece)

    def graph(self, x: Tensor, piece: tuple[int, int]) -> Graph:
        """Return the network's input and logits of one piece, with a graph, and the pass number."""
        leaf = self._input(x.detach(), piece).requires_grad_()
        with torch.enable_grad():
            return leaf, self._logits(leaf, piece), self._passes

    def is_intact(self, graph: Graph) -> bool:
        """Whether a backward pass through the graph is still correct.

        Each recorded pass overwrites the tensors that the previous one's backward pass needs.
        """
        return not self.batching.graph_sizes or graph[2] == self._passes

    def _input(self, x: Tensor, piece: tuple[int, int]) -> Tensor:
        """Return one piece of the batch as the network's input: padded, in its memory layout."""
        part = x[slice(*piece)]
        extra = self.batching.padded(len(part)) - len(part)
        padded = pad(part, (0, 0) * 3 + (0, extra)) if extra else part
        return padded.contiguous(memory_format=self.layout)

    def _logits(self, images: Tensor, piece: tuple[int, int]) -> Tensor:
        self._passes += 1
        enabled = self.autocast is not None
        # Passes cannot be recorded with the cache, which only holds copies of trainable weights.
        with torch.autocast(
            images.device.type, dtype=self.autocast, enabled=enabled, cache_enabled=False
        ):
            logits = self.network(images.clone())[: piece[1] - piece[0]]
        # Attacks write into the logits, but a compiled network owns them and a recorded one reuses
        # them.
        return logits.float().clone()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that GPU or main memory ran out."""
    words = "not enough memory", "can't allocate memory", "out of memory"
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in words)


def within_memory(
    batching: Batching, count: int, attempt: Callable[[], T], halved: Callable[[], None]
) -> T:
    """Return the result of ``attempt``, repeated with half the images at once when memory runs out.

    Args:
        batching: splits the batches of the attempt.
        count: number of images in its largest batch.
        attempt: must not depend on earlier failed attempts.
        halved: called before each repetition.
    """
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if not (out_of_memory(error) and batching.halve(count)):
                raise
        # Outside the handler, so that the traceback no longer holds the tensors.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        halved()


class _Pieces(torch.autograd.Function):
    """Forward and backward piece by piece.

    The last pieces keep their graphs, as many as memory allows. In the backward pass the others run
    forward again, as do pieces whose graphs another pass overwrote.
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
        # Attacks view gradients as flat rows, which channels-last tensors do not allow.
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
