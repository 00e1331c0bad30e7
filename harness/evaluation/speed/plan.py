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

# Pixels of the input that one piece holds at most: activations of so many stay in the cache.
TILE_PIXELS = 32 * 1024
SMALLEST_TILE = 16
# Of a multiple, the batches that are probed for it, as far as there are images.
PROBED_STEPS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 16, 17, 21, 25, 29, 31)
# Of folding in float64, relative to the norm of all logits, and of all gradients. In float32 a
# single ReLU whose input is nearly zero moved the gradients of a network by a hundredth.
FOLDING_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Plan:
    """How a network is run under attack; stored, so that a resumed evaluation runs it alike.

    Attributes:
        folded: BatchNorm layers that were folded into the convolution before them.
        channels_last: whether activations have that memory layout.
        tile: images in one piece on a CPU, None where pieces are as large as memory allows.
        multiple: pieces of a tile are padded to a multiple of so many images; see
            ``smallest_multiple``.
        compiled: whether the copy is compiled.
        graph_sizes: batch sizes of which the copy's passes are recorded; see ``graphs``.
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
        """The plan that ``asdict`` made a dictionary, also by way of JSON.

        Raises:
            KeyError: a field is missing: a release without it ran the network in another way.
        """
        stored = {"graph_sizes": (), **stored}  # releases without it recorded no passes
        values = {each.name: stored[each.name] for each in fields(cls)}
        tuples = {name: tuple(values[name]) for name in ("graph_sizes", "notes")}
        return cls(**{**values, **tuples})

    @property
    def is_plain(self) -> bool:
        """Whether it leaves the network as it is, compiled or recorded or not."""
        return replace(self, compiled=False, graph_sizes=(), notes=()) == PLAIN

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of the copy's input."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


PLAIN = Plan()


def decide(
    network: nn.Module, images: Tensor, device: torch.device, *, compiled: bool = False
) -> Plan:
    """How a network can be run faster without computing another function.

    Args:
        network: in eval mode, on ``device``.
        images: some images [B, K, H, W] in [0, 1] on which the faster copy must agree with it.
        device: where both compute.
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
    """A frozen copy of a network in eval mode, made for speed as the plan says.

    By a plan that changes nothing it is the network itself, which perhaps cannot be copied.

    Raises:
        RuntimeError: the network is not the one that the plan was made for.
    """
    copied = network if plan.is_plain else rewritten(network, plan)
    if not plan.compiled:
        return copied
    compiled: Callable[[Tensor], Tensor] = torch.compile(copied, dynamic=True)
    return compiled


def _cannot_be_copied(network: nn.Module, images: Tensor) -> str | None:
    """Why a network cannot be copied and rewritten; None if it can be.

    Locks, compiled code and tensors with a history, such as those that hooks collect, cannot.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        return "it is TorchScript, whose graph is fixed"
    one = images[:1]
    try:
        outputs(network, one)  # of which hooks may keep something that cannot be copied
        outputs(rewritten(network, Plan(channels_last=True, tile=SMALLEST_TILE)), one)
    except Exception as error:  # a network's own code can raise anything
        return first_line(error)
    return None


def check_compiles(network: nn.Module, plan: Plan, images: Tensor) -> None:
    """Compile the copy of a plan and run it on images, as attacks will.

    Raises:
        UserError: it cannot be compiled here.
    """
    try:
        copied, images = apply(network, plan), images.contiguous(memory_format=plan.layout)
        with torch.no_grad():
            copied(images.clone())
        outputs(copied, images)
    except Exception as error:  # a compiler meets arbitrary code, and may not be installed
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"the network cannot be compiled here ({type(error).__name__}: {reason}): leave out "
            "evaluation.compile; an evaluation that was started with it must end where it compiles"
        ) from error


def rewritten(network: nn.Module, plan: Plan) -> nn.Module:
    """The copy of ``apply`` without being compiled.

    Raises:
        RuntimeError: the network is not the one that the plan was made for.
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
    """How many BatchNorm layers can be folded into convolutions, checked in float64, and notes.

    It is none for a network whose graph cannot be traced, or whose folded copy disagrees.
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
    """How far two ``outputs`` of the same images are apart, relative to their norm, if too far."""
    for what, ours, theirs in zip(("logits", "gradients"), found, expected, strict=True):
        difference = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        if not difference <= tolerance:
            return f"{what} moved by {difference:.2g} of their norm"
    return None


def outputs(network: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, C], and the gradient [B, K, H, W] of a fixed sum of them.

    The gradient is needed because a tracer drops a backward pass that a network defines itself.
    """
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = network(leaf.clone())
        weights = torch.linspace(-1, 1, logits.shape[1]).to(logits)
        gradient = image_gradient(logits, leaf, weights.expand_as(logits))
    return logits.detach(), gradient


def image_gradient(logits: Tensor, images: Tensor, weights: Tensor) -> Tensor:
    """The gradient by the images of the weighted sum of logits; zero if it does not depend on them.

    Args:
        logits: of the images [B, C].
        images: what they were computed from [B, K, H, W].
        weights: of the sum [B, C].
    """
    if not logits.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(logits, images, weights, materialize_grads=True)
    return gradient


def smallest_multiple(network: nn.Module, images: Tensor) -> int:
    """The least power of 2 by which batches of all probed sizes give each image the same bits.

    Convolution kernels for odd batches, or for the threads that share them, may add up in another
    order. It is ``GRAIN`` at most.
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
