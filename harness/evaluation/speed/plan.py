"""A faster copy of a network that computes the same function."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from harness.evaluation.speed.batching import GRAIN
from harness.evaluation.speed.compiling import Passes, answers, compiled, pays
from harness.evaluation.speed.precision import pinned

# What one piece holds at most, in pixels of the input: activations of that many stay in the cache.
TILE_PIXELS = 32 * 1024
SMALLEST_TILE = 16
# Of a multiple, the batches that are probed for it, as far as there are images.
PROBED_STEPS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 16, 17, 21, 25, 29, 31)
# Of folding in float64, relative to the norm of all logits, and of all gradients. In float32 a
# single ReLU whose input is all but zero moved the gradients of a network by a hundredth.
FOLDING_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Plan:
    """How a network is run under attack; stored, so that a resumed evaluation runs it alike.

    Attributes:
        folded: BatchNorm layers that were folded into the convolution before them.
        channels_last: the memory layout of activations.
        tile: images in one piece on a CPU, None where pieces are as large as memory allows.
        multiple: pieces of a tile are padded to a multiple of so many images; see
            ``smallest_multiple``.
        compiled: whether the copy is compiled.
        probe: what decided that, in seconds; see ``compiling.pays``.
        notes: what was not done, and why.
    """

    folded: int = 0
    channels_last: bool = False
    tile: int | None = None
    multiple: int = GRAIN
    compiled: bool = False
    probe: dict[str, float] | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Plan:
        """The plan of which ``as_dict`` gave the fields, also by way of JSON."""
        # Not by default: a release that had no such field padded otherwise.
        multiple, notes = fields["multiple"], tuple(fields["notes"])
        return cls(**{**fields, "multiple": multiple, "notes": notes})

    def laid_out(self, images: Tensor) -> Tensor:
        """Images as the copy takes them."""
        return images.contiguous(memory_format=self.layout)

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of the copy's input."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


PLAIN = Plan()


def decide(
    network: nn.Module, images: Tensor, device: torch.device, expected: Passes | None = None
) -> Plan:
    """How a network can be run faster without computing another function.

    Args:
        network: in eval mode, on ``device``.
        images: some images [B, K, H, W] in [0, 1] on which the faster copy must agree with it.
        device: where both compute.
        expected: the work ahead of a process; without it nothing is compiled.
    """
    height, width = images.shape[2:]
    tile = max(SMALLEST_TILE, TILE_PIXELS // (height * width) // SMALLEST_TILE * SMALLEST_TILE)
    folded, notes = foldable(network, images)
    plan = Plan(folded=folded, channels_last=True, notes=notes)
    if device.type == "cpu":
        plan = replace(plan, tile=tile)
        with pinned("reference"):
            multiple = smallest_multiple(rewritten(network, plan), plan.laid_out(images))
        plan = replace(plan, multiple=multiple)
    if expected is None:
        return plan
    with pinned("reference"):
        answer, probe, note = pays(rewritten(network, plan), plan.laid_out(images), expected)
    return replace(plan, compiled=answer, probe=probe, notes=(*notes, note) if note else notes)


def apply(network: nn.Module, plan: Plan) -> Callable[[Tensor], Tensor]:
    """A frozen copy of a network in eval mode, made for speed as the plan says.

    Raises:
        RuntimeError: the network is not the one that the plan was made for.
    """
    copied = rewritten(network, plan)
    return compiled(copied) if plan.compiled else copied


def rewritten(network: nn.Module, plan: Plan) -> nn.Module:
    """As ``apply``, but never compiled.

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
    """How many BatchNorm layers can be folded into convolutions, asked in float64, and remarks.

    It is none for a network whose graph cannot be traced, or whose folded copy disagrees.
    """
    try:
        exact = copy.deepcopy(network).double()
        graph = fx.symbolic_trace(copy.deepcopy(exact))
        folded = fold_batchnorm(graph)
        if not folded:
            return 0, ()
        expected, found = answers(exact, images.double()), answers(graph, images.double())
    except Exception as error:  # a tracer meets arbitrary code, which may raise anything
        return 0, (f"not folded: {type(error).__name__}: {error}",)
    for what, ours, theirs in zip(("logits", "gradients"), found, expected, strict=True):
        difference = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        if not difference <= FOLDING_TOLERANCE:
            return 0, (f"not folded: {what} moved by {difference:.2g} of their norm",)
    return folded, ()


class PaddedLinear(nn.Linear):
    """A linear layer that never multiplies fewer than ``GRAIN`` rows, whose last bits differ."""

    def forward(self, x: Tensor) -> Tensor:
        """Of [B, D]; other shapes go through as they are."""
        if x.ndim != 2 or len(x) >= GRAIN:
            return super().forward(x)
        return super().forward(pad(x, (0, 0, 0, GRAIN - len(x))))[: len(x)]


def pad_linear_layers(network: nn.Module) -> None:
    """Make each plain linear layer a padded one; its weights, hooks and name stay."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = PaddedLinear


def smallest_multiple(network: nn.Module, images: Tensor) -> int:
    """The least power of 2 by which batches of all probed sizes give each image the same bits.

    Convolution kernels for odd batches, or for the threads that share them, may add up in another
    order. Where no power below ``GRAIN`` will do, it is ``GRAIN``.
    """
    whole = answers(network, images)
    multiple = 1
    while multiple < GRAIN:
        sizes = [step * multiple for step in PROBED_STEPS if step * multiple < len(images)]
        if all(_same_bits(answers(network, images[:size]), whole) for size in sizes):
            return multiple
        multiple *= 2
    return GRAIN


def _same_bits(part: tuple[Tensor, Tensor], whole: tuple[Tensor, Tensor]) -> bool:
    return all(
        torch.equal(ours, theirs[: len(ours)]) for ours, theirs in zip(part, whole, strict=True)
    )


def fold_batchnorm(graph: fx.GraphModule) -> int:
    """Fold each eval-mode BatchNorm into a convolution that feeds only it; returns how many."""
    modules = dict(graph.named_modules())
    folded = 0
    for node in list(graph.graph.nodes):
        source = node.args[0] if node.args else None
        if not (_calls(node, nn.BatchNorm2d, modules) and isinstance(source, fx.Node)):
            continue
        if not _calls(source, nn.Conv2d, modules) or len(source.users) > 1:
            continue
        convolution, batchnorm = modules[str(source.target)], modules[str(node.target)]
        if batchnorm.running_mean is None or _uses(graph, str(source.target)) > 1:
            continue
        fused = fuse_conv_bn_eval(convolution, batchnorm)
        parent, _, name = str(source.target).rpartition(".")
        setattr(graph.get_submodule(parent), name, fused)
        modules[str(source.target)] = fused
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
        folded += 1
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return folded


def _calls(node: fx.Node, kind: type[nn.Module], modules: dict[str, nn.Module]) -> bool:
    """Whether a node calls a module of exactly that kind."""
    return node.op == "call_module" and type(modules[str(node.target)]) is kind


def _uses(graph: fx.GraphModule, target: str) -> int:
    """How often a module is called."""
    return operator.countOf((node.target for node in graph.graph.nodes), target)
