"""Training in several processes, one GPU each: ``torchrun -m harness run ...``.

Every process sees whole batches and computes the whole loss; only passes through the network are
divided. Each process takes its share of a batch's images, and the logits are gathered, so that a
task, its state and all metrics are the same as in a single process. Gradients with respect to the
network's weights are partial in each process; see ``ProcessGroup.gathered``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from harness.errors import UserError

T = TypeVar("T")

# The other processes wait while the first one evaluates a teacher or its model. If a process ends,
# torchrun ends the others.
TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together; by default one.

    Attributes:
        rank: the number of this process, from 0.
        count: the number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reads and writes the run."""
        return self.rank == 0

    def broadcast(self, compute: Callable[[], T]) -> T:
        """The result of ``compute`` in the first process; the others wait and do not call it."""
        if self.count == 1:
            return compute()
        values: list[Any] = [compute() if self.first else None]
        dist.broadcast_object_list(
            values, src=0, group=_control_group(), device=torch.device("cpu")
        )
        result: T = values[0]
        return result

    def send(self, value: object) -> None:
        """Send a value from the first process to the others, which ``receive`` it."""
        self.broadcast(lambda: value)

    def receive(self) -> Any:
        """The next value that the first process sends."""
        return self.broadcast(lambda: None)

    def own(self, parts: Sequence[T]) -> slice:
        """This process's share of a batch's parts; the shares differ by at most one part.

        Raises:
            RuntimeError: there are fewer parts than processes.
        """
        return _shares(len(parts), self.count)[self.rank]

    def gathered(self, own: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """The outputs [B, ...] of all processes, given this process's ``own``.

        Each process then computes the same loss from them, so the gradient with respect to them is
        the same in each; the backward pass multiplies it by the number of processes. The mean over
        processes of the gradients with respect to the network's weights is then the gradient of the
        loss, and so is the mean for parameters that act on the gathered outputs.

        Args:
            own: this process's outputs, a row for each image of its parts.
            parts: all parts of the batch; only their lengths are used.
        """
        if self.count == 1:
            return own
        lengths = [
            sum(len(part) for part in parts[share]) for share in _shares(len(parts), self.count)
        ]
        everything: Tensor = _Gather.apply(own, lengths, self.rank)  # type: ignore[no-untyped-call]
        return everything

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes, differentiable with respect to each one's values."""
        everything: Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]
        return everything

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor with its mean over the processes, in place."""
        if self.count == 1:
            return
        for same_type in _by_type(tensors).values():
            flat = torch.cat([tensor.flatten() for tensor in same_type]) / self.count
            dist.all_reduce(flat)
            _put_back(flat, same_type)

    def copy_first_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor with the first process's, in place."""
        if self.count == 1:
            return
        for same_type in _by_type(tensors).values():
            flat = torch.cat([tensor.flatten() for tensor in same_type])
            dist.broadcast(flat, src=0)
            _put_back(flat, same_type)


SINGLE_PROCESS = ProcessGroup()


def under_torchrun() -> ProcessGroup:
    """The processes that torchrun started, from its environment variables; one without torchrun."""
    return ProcessGroup(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Connect the processes that torchrun started, each with its own GPU if GPUs are used.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, as for a single process.

    Raises:
        UserError: a machine has fewer GPUs than processes, or one GPU is named for all.
    """
    here = under_torchrun()
    if here.count == 1:
        yield SINGLE_PROCESS
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu(device, int(os.environ.get("LOCAL_RANK", "0")))
    # Two backends: outputs and gradients are exchanged between GPUs, messages between CPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        _control_group()
        yield here
    finally:
        _CONTROL_GROUPS.clear()
        dist.destroy_process_group()


def _take_gpu(device: str, number: int) -> None:
    if ":" in device:
        raise UserError(f"--device {device} names one GPU for all processes: give --device cuda")
    if number >= torch.cuda.device_count():
        raise UserError(
            f"process {number} of this machine has no GPU, since the machine has "
            f"{torch.cuda.device_count()}: set torchrun's --nproc-per-node to that number, or give "
            "--device cpu"
        )
    torch.cuda.set_device(number)


_CONTROL_GROUPS: list[Any] = []


def _control_group() -> Any:
    """The group for messages, with a long timeout."""
    if not _CONTROL_GROUPS:
        _CONTROL_GROUPS.append(dist.new_group(backend="gloo", timeout=TIMEOUT))
    return _CONTROL_GROUPS[0]


def _shares(parts: int, count: int) -> list[slice]:
    if parts < count:
        raise RuntimeError(f"{parts} parts of a batch are too few for {count} processes")
    bounds = [parts * rank // count for rank in range(count + 1)]
    return [slice(*bounds[rank : rank + 2]) for rank in range(count)]


def _by_type(tensors: Iterable[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor.detach())
    return kinds


def _put_back(flat: Tensor, tensors: list[Tensor]) -> None:
    values = flat.split([tensor.numel() for tensor in tensors])
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value.view_as(tensor))


class _Gather(torch.autograd.Function):
    """The rows of all processes, whose numbers of rows can differ."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, lengths: list[int], rank: int) -> Tensor:
        ctx.before, ctx.length, ctx.count = sum(lengths[:rank]), lengths[rank], len(lengths)
        longest = max(lengths)
        padded = own.new_zeros((longest, *own.shape[1:]))
        padded[: len(own)] = own
        received = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(received, padded)
        return torch.cat([rows[:length] for rows, length in zip(received, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient[ctx.before : ctx.before + ctx.length] * ctx.count, None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(*gradients)


def _summed(values: Tensor) -> Tensor:
    everything = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(everything)
    return everything
