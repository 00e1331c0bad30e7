"""BatchNorm over the batch of all processes that train together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.distributed.group import SINGLE_PROCESS, ProcessGroup


class SyncBatchNorm(_BatchNorm):
    """What ``nn.SyncBatchNorm`` is on a GPU, whose kernels it needs, on any device."""

    processes = SINGLE_PROCESS

    def forward(self, x: Tensor) -> Tensor:
        """Of [B, K, H, W] or [B, K]: the same shape and type."""
        if not self.training:
            return super().forward(x)
        given = x.dtype
        # As in torch's own layers: half precision would round counts and sums over a batch.
        x = x.to(torch.promote_types(given, torch.float32))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        total = self.processes.total
        count = total(x.new_tensor(x.numel() // x.shape[1]))
        mean = total(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = total(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._move(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(given)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Images or vectors."""


def with_whole_batches(module: nn.Module, processes: ProcessGroup) -> nn.Module:
    """The module, its BatchNorms exchanged for such as see the images of all processes.

    Parameters, statistics and their names stay. On a GPU they are torch's.
    """
    if isinstance(module, _BatchNorm):
        size = module.num_features, module.eps, module.momentum, module.affine
        if module.running_mean is not None and module.running_mean.is_cuda:
            made: _BatchNorm = nn.SyncBatchNorm(*size)
        else:
            made = SyncBatchNorm(*size)
            made.processes = processes
        made.weight, made.bias = module.weight, module.bias
        made.running_mean, made.running_var = module.running_mean, module.running_var
        made.num_batches_tracked = module.num_batches_tracked
        return made.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, with_whole_batches(child, processes))
    return module
