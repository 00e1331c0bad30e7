"""Rewrite a network so that it runs faster, or rounds the same way at all batch sizes."""

from __future__ import annotations

import operator

from torch import Tensor, fx, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from harness.evaluation.speed.batching import GRAIN


def fold_batchnorm(graph: fx.GraphModule) -> int:
    """Fold each eval-mode BatchNorm into a convolution that feeds only it; return how many."""
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


class PaddedLinear(nn.Linear):
    """A linear layer that pads its input to ``GRAIN`` rows: products of fewer round differently."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [B, D], padded; other shapes are not padded."""
        if x.ndim != 2 or len(x) >= GRAIN:
            return super().forward(x)
        return super().forward(pad(x, (0, 0, 0, GRAIN - len(x))))[: len(x)]


def pad_linear_layers(network: nn.Module) -> None:
    """Turn each plain linear layer into a padded one; its weights, hooks and name are kept."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = PaddedLinear
