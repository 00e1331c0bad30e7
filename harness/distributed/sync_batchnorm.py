"""BatchNorm over the batch of all processes that train together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.errors import UserError


class SyncBatchNorm(_BatchNorm):
    """``nn.SyncBatchNorm`` for any device; torch's own needs a GPU."""

    processes = SINGLE_PROCESS

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, [B, K, H, W] or [B, K]; shape and type stay the same."""
        if not self.training:
            return super().forward(x)
        dtype = x.dtype
        # As in torch's own layers: half precision would round counts and sums over a batch.
        x = x.to(torch.promote_types(dtype, torch.float32))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        total = self.processes.total
        count = total(x.new_tensor(x.numel() // x.shape[1]))
        mean = total(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = total(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept images and vectors."""


def with_sync_batchnorm(module: nn.Module, processes: ProcessGroup) -> nn.Module:
    """The module with each BatchNorm replaced by one over the images of all processes.

    Parameters, statistics and their names are kept. On a GPU the layers are ``nn.SyncBatchNorm``.

    Raises:
        UserError: a layer has no running statistics. In eval mode it would need the other
            processes' images, but they take no part in every pass, such as those of monitoring.
    """
    if isinstance(module, _BatchNorm):
        if module.running_mean is None:
            raise UserError(
                f"{module} uses the statistics of each batch, also in eval mode, which several "
                "processes cannot share: train in one process, without torchrun"
            )
        size = module.num_features, module.eps, module.momentum, module.affine
        if module.running_mean.is_cuda:
            synced: _BatchNorm = nn.SyncBatchNorm(*size)
        else:
            synced = SyncBatchNorm(*size)
            synced.processes = processes
        synced.weight, synced.bias = module.weight, module.bias
        synced.running_mean, synced.running_var = module.running_mean, module.running_var
        synced.num_batches_tracked = module.num_batches_tracked
        return synced.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, with_sync_batchnorm(child, processes))
    return module
