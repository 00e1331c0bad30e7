"""Training in several processes as in one, with a GPU each: ``torchrun -m harness run ...``.

Every process sees whole batches and computes the whole loss; only passes through the network are
shared out. Its images are split, each process takes its part, and the logits are gathered, so that
a task, its state and all metrics are those of one process and need know nothing of it. Gradients
with respect to the network's weights are partial in each process; see ``Processes.gathered``.
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

# How long a process waits for the first, which may evaluate a teacher or its model meanwhile. Where
# a process ends, torchrun ends the others.
TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together; by default this one alone.

    Attributes:
        rank: the number of this one, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that reads and writes the run."""
        return self.rank == 0

    def broadcast(self, value: Callable[[], T]) -> T:
        """What the first process finds; the others wait for it and do not look themselves."""
        if self.count == 1:
            return value()
        told: list[Any] = [value() if self.first else None]
        dist.broadcast_object_list(told, src=0, group=_control_group(), device=torch.device("cpu"))
        found: T = told[0]
        return found

    def tell(self, what: object) -> None:
        """The first process says something to the others, who are ``told`` it."""
        self.broadcast(lambda: what)

    def told(self) -> Any:
        """What the first process says next."""
        return self.broadcast(lambda: None)

    def own(self, parts: Sequence[T]) -> slice:
        """Which of a batch's parts are this process's: as many as another's, or one more or less.

        Raises:
            RuntimeError: there are fewer parts than processes.
        """
        return _shares(len(parts), self.count)[self.rank]

    def gathered(self, own: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """All processes' outputs [B, ...] where ``own`` are those of this one's ``parts``.

        Each process goes on to compute the same loss of them, so that the gradient that comes back
        is the same in each; it is multiplied by the number of processes. The mean over processes of
        gradients with respect to the network's weights is then the gradient of the loss, as the
        mean of those that parameters behind the gathered outputs get is.

        Args:
            own: what this process computed, a row for each image of its parts.
            parts: all parts of the batch; only their lengths are looked at.
        """
        if self.count == 1:
            return own
        lengths = [
            sum(len(part) for part in parts[share]) for share in _shares(len(parts), self.count)
        ]
        everything: Tensor = _Gather.apply(own, lengths, self.rank)  # type: ignore[no-untyped-call]
        return everything

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes, with gradients into the values of each."""
        everything: Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]
        return everything

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over the processes in each tensor's place."""
        if self.count == 1:
            return
        for alike in _by_type(tensors).values():
            flat = torch.cat([tensor.flatten() for tensor in alike]) / self.count
            dist.all_reduce(flat)
            _put_back(flat, alike)

    def copy_first_(self, tensors: Iterable[Tensor]) -> None:
        """Put the first process's values in each tensor's place."""
        if self.count == 1:
            return
        for alike in _by_type(tensors).values():
            flat = torch.cat([tensor.flatten() for tensor in alike])
            dist.broadcast(flat, src=0)
            _put_back(flat, alike)


SINGLE_PROCESS = ProcessGroup()


def under_torchrun() -> ProcessGroup:
    """This process's place among those that torchrun started; alone without it."""
    return ProcessGroup(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def together(device: str) -> Iterator[ProcessGroup]:
    """The processes that torchrun started, connected, each on a GPU of its own if on any.

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
    # Both at once: outputs and gradients travel between devices, messages between processors.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        _control_group()
        yield here
    finally:
        _ROOMS.clear()
        dist.destroy_process_group()


def _take_gpu(device: str, number: int) -> None:
    if ":" in device:
        raise UserError(f"--device {device} names one GPU for all processes: give --device cuda")
    if number >= torch.cuda.device_count():
        raise UserError(
            f"process {number} of this machine has none of its {torch.cuda.device_count()} GPUs: "
            "give torchrun --nproc-per-node that many, or --device cpu"
        )
    torch.cuda.set_device(number)


_ROOMS: list[Any] = []


def _control_group() -> Any:
    """A group for messages, in which a process may wait long."""
    if not _ROOMS:
        _ROOMS.append(dist.new_group(backend="gloo", timeout=TIMEOUT))
    return _ROOMS[0]


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
    """Rows of all processes, whose numbers may differ; see ``Processes.gathered``."""

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
