"""A faster copy of a network that computes the same function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from harness.errors import UserError, first_line
from harness.evaluation.speed.batching import GRAIN
from harness.evaluation.speed.precision import pinned
from harness.evaluation.speed.rewriting import fold_batchnorm, pad_linear_layers

# Most input pixels in one piece: the activations of this many stay in the cache.
TILE_PIXELS = 32 * 1024
SMALLEST_TILE = 16
# Batches probed for a multiple, in units of it, up to the number of images.
PROBED_STEPS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 16, 17, 21, 25, 29, 31)
# For folding in float64, relative to the norm of all logits and of all gradients. In float32 a
# single ReLU with an input near zero changed a network's gradients by a hundredth.
FOLDING_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Plan:
    """How a network is run under attack; stored, so that a resumed evaluation does the same.

    Attributes:
        folded: number of BatchNorm layers folded into the preceding convolution.
        channels_last: whether activations have that memory layout.
        tile: images in one piece on a CPU, None if pieces are as large as memory allows.
        multiple: with a tile, pieces are padded to a multiple of this number of images; see
            ``smallest_multiple``.
        compiled: whether the copy is compiled.
        graph_sizes: batch sizes at which the copy's passes are recorded; see ``graphs``.
        notes: what was not done, and why.
    """

    folded: int = 0
    channels_last: bool = False
    tile: int | None = None
    multiple: int = GRAIN
    compiled: bool = False
    graph_sizes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Plan:
        """Build the plan from the dictionary that ``asdict`` returned, also after JSON.

        Raises:
            KeyError: a field is missing: the plan is from a release that ran networks differently.
        """
        stored = {"graph_sizes": (), **stored}  # releases without this field recorded no passes
        values = {each.name: stored[each.name] for each in fields(cls)}
        tuples = {name: tuple(values[name]) for name in ("graph_sizes", "notes")}
        return cls(**{**values, **tuples})

    @property
    def is_plain(self) -> bool:
        """Whether the network itself is unchanged; it may still be compiled or recorded."""
        return replace(self, compiled=False, graph_sizes=(), notes=()) == PLAIN

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of the copy's input."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


PLAIN = Plan()


def decide(
    network: nn.Module, images: Tensor, device: torch.device, *, compiled: bool = False
) -> Plan:
    """Plan how to run a network faster without changing the function it computes.

    Args:
        network: in eval mode, on ``device``.
        images: images [B, K, H, W] in [0, 1] on which the network and its faster copy must agree.
        device: where both run.
        compiled: whether the copy is to be compiled.
    """
    if reason := _cannot_be_copied(network, images):
        return Plan(compiled=compiled, notes=(f"not accelerated: {reason}",))
    height, width = images.shape[2:]
    tile = max(SMALLEST_TILE, TILE_PIXELS // (height * width) // SMALLEST_TILE * SMALLEST_TILE)
    folded, notes = foldable(network, images)
    plan = Plan(folded=folded, channels_last=True, compiled=compiled, notes=notes)
    if device.type != "cpu":
        return plan
    plan = replace(plan, tile=tile)
    with pinned("reference"):
        images = images.contiguous(memory_format=plan.layout)
        return replace(plan, multiple=smallest_multiple(rewritten(network, plan), images))


def apply(network: nn.Module, plan: Plan) -> Callable[[Tensor], Tensor]:
    """Return a frozen, faster copy of a network in eval mode, as the plan specifies.

    A plan that changes nothing returns the network itself, since it may not be copyable.

    Raises:
        RuntimeError: the plan was made for another network.
    """
    copied = network if plan.is_plain else rewritten(network, plan)
    if not plan.compiled:
        return copied
    compiled: Callable[[Tensor], Tensor] = torch.compile(copied, dynamic=True)
    return compiled


def _cannot_be_copied(network: nn.Module, images: Tensor) -> str | None:
    """Return why a network cannot be copied and rewritten; None if it can be.

    Locks, compiled code and tensors with a grad history, such as hooks collect, cannot be copied.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        return "it is TorchScript, whose graph is fixed"
    one = images[:1]
    try:
        outputs(network, one)  # hooks may keep tensors that cannot be copied
        outputs(rewritten(network, Plan(channels_last=True, tile=SMALLEST_TILE)), one)
    except Exception as error:  # a network's own code can raise anything
        return first_line(error)
    return None


def check_compiles(network: nn.Module, plan: Plan, images: Tensor) -> None:
    """Compile a plan's copy and run it on images as the attacks will.

    Raises:
        UserError: it cannot be compiled here.
    """
    try:
        copied, images = apply(network, plan), images.contiguous(memory_format=plan.layout)
        with torch.no_grad():
            copied(images.clone())
        outputs(copied, images)
    except Exception as error:  # a compiler meets arbitrary code, and may not be installed
        raise UserError(
            f"the network cannot be compiled here ({first_line(error)}): leave out "
            "evaluation.compile; an evaluation started with it must be continued where it compiles"
        ) from error


def rewritten(network: nn.Module, plan: Plan) -> nn.Module:
    """Return the copy of ``apply`` before compilation.

    Raises:
        RuntimeError: the plan was made for another network.
    """
    copied = copy.deepcopy(network)
    if plan.folded:
        copied = fx.symbolic_trace(copied)
        folded = fold_batchnorm(copied)
        if folded != plan.folded:
            raise RuntimeError(
                f"the plan folds {plan.folded} BatchNorm layers, but this network allows {folded}"
            )
    if plan.tile is not None:
        pad_linear_layers(copied)
    if plan.channels_last:
        copied = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied.requires_grad_(False)


def foldable(network: nn.Module, images: Tensor) -> tuple[int, tuple[str, ...]]:
    """Return how many BatchNorm layers can be folded into convolutions, and notes.

    Checked in float64. None can be folded if the network cannot be traced or its folded copy
    disagrees with it.
    """
    try:
        exact = copy.deepcopy(network).double()
        graph = fx.symbolic_trace(copy.deepcopy(exact))
        folded = fold_batchnorm(graph)
        if not folded:
            return 0, ()
        expected, found = outputs(exact, images.double()), outputs(graph, images.double())
    except Exception as error:  # a tracer meets arbitrary code, which may raise anything
        return 0, (f"not folded: {type(error).__name__}: {error}",)
    if moved := disagreement(found, expected, FOLDING_TOLERANCE):
        return 0, (f"not folded: {moved}",)
    return folded, ()


def disagreement(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float
) -> str | None:
    """Describe how far two ``outputs`` differ relative to their norm; None if within tolerance."""
    for what, ours, theirs in zip(("logits", "gradients"), found, expected, strict=True):
        difference = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        if not difference <= tolerance:
            return f"{what} moved by {difference:.2g} of their norm"
    return None


def outputs(network: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [B, C] and the gradient [B, K, H, W] of a fixed weighted sum of them.

    The gradient is compared because tracing drops a network's custom backward passes.
    """
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = network(leaf.clone())
        weights = torch.linspace(-1, 1, logits.shape[1]).to(logits)
        gradient = image_gradient(logits, leaf, weights.expand_as(logits))
    return logits.detach(), gradient


def image_gradient(logits: Tensor, images: Tensor, weights: Tensor) -> Tensor:
    """Gradient of a weighted sum of logits with respect to the images; zero if independent of them.

    Args:
        logits: of the images [B, C].
        images: the images [B, K, H, W] that the logits were computed from.
        weights: of the sum [B, C].
    """
    if not logits.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(logits, images, weights, materialize_grads=True)
    return gradient


def smallest_multiple(network: nn.Module, images: Tensor) -> int:
    """Find the smallest power of 2 whose multiples, as batch sizes, give each image the same bits.

    Convolution kernels may sum in another order for odd batch sizes, or when threads share them.
    The result is at most ``GRAIN``.
    """
    whole = outputs(network, images)
    multiple = 1
    while multiple < GRAIN:
        sizes = [step * multiple for step in PROBED_STEPS if step * multiple < len(images)]
        if all(_same_bits(outputs(network, images[:size]), whole) for size in sizes):
            return multiple
        multiple *= 2
    return GRAIN


def _same_bits(part: tuple[Tensor, Tensor], whole: tuple[Tensor, Tensor]) -> bool:
    return all(
        torch.equal(ours, theirs[: len(ours)]) for ours, theirs in zip(part, whole, strict=True)
    )
