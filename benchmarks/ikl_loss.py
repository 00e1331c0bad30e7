"""Time the IKL loss, forward and backward: closed form against plain pairwise sum, on CPU.

With the project installed:

    python benchmarks/ikl_loss.py [--json]

At B=128, C=1000 the plain sum moves about ten tensors of 488 MiB and the closed form some tens of
0.5 MiB, so the predicted ratio is well over 1000; at C=21,841 the closed form should need 0.2 GB.

Both run in one process on the same inputs, in turns, and must agree before they are timed. The exit
status is 1 if the ratio is below 500 or the extra memory is 1 GB or more.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from plain import ikl_loss_pairwise
from shared import finish, machine, spread
from torch import Tensor

from methods.losses.divergence import ikl_loss

WMSE_WEIGHT, CE_WEIGHT = 20.0, 3.0
LEAST_RATIO, MOST_EXTRA_BYTES = 500.0, 10**9

Inputs = tuple[Tensor, Tensor, Tensor]


def make_inputs(batch: int, classes: int) -> Inputs:
    """Return two sets of logits that require gradients, and class weights, in float32."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(batch, classes, generator=generator)

    return draw().mul_(3).requires_grad_(), draw().mul_(3).requires_grad_(), draw().softmax(-1)


def closed_form(inputs: Inputs) -> Tensor:
    """Return the loss by the closed form, as methods compute it."""
    return ikl_loss(*inputs).weighted(WMSE_WEIGHT, CE_WEIGHT)


def pairwise(inputs: Inputs) -> Tensor:
    """Return the loss by the pairwise sum, as the paper prints it."""
    return ikl_loss_pairwise(*inputs, WMSE_WEIGHT, CE_WEIGHT)


def forward_backward(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the loss and its two gradients."""
    value = loss(inputs)
    return (value.detach(), *torch.autograd.grad(value, inputs[:2]))


def seconds(loss: Callable[[Inputs], Tensor], inputs: Inputs, calls: int) -> float:
    """Return the mean wall time of ``calls`` forward and backward passes in a row."""
    started = time.perf_counter()
    for _ in range(calls):
        forward_backward(loss, inputs)
    return (time.perf_counter() - started) / calls


def worst_relative_difference(inputs: Inputs) -> float:
    """Return the largest difference of the forms' values and gradients, relative to the largest."""
    pairs = zip(
        forward_backward(closed_form, inputs), forward_backward(pairwise, inputs), strict=True
    )
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def measure_ratio(batch: int, classes: int, repeats: int) -> dict[str, Any]:
    """Time both forms in turns; return medians and extremes."""
    inputs = make_inputs(batch, classes)
    difference = worst_relative_difference(inputs)
    if difference > 1e-3:
        raise SystemExit(f"the two forms differ by {difference:.1e}: nothing was timed")
    closed, plain = [], []
    for _ in range(repeats):
        plain.append(seconds(pairwise, inputs, calls=1))
        closed.append(seconds(closed_form, inputs, calls=20))
    return {
        "batch": batch,
        "classes": classes,
        "repeats": repeats,
        "difference": difference,
        "closed_form_ms": spread([1e3 * value for value in closed]),
        "pairwise_ms": spread([1e3 * value for value in plain]),
        "ratio": spread([slow / fast for slow, fast in zip(plain, closed, strict=True)]),
    }


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def extra_peak_bytes(batch: int, classes: int) -> int:
    """Return by how much the closed form, with its inputs, raises this process's peak memory."""
    forward_backward(closed_form, make_inputs(2, 10))
    before = peak_bytes()
    forward_backward(closed_form, make_inputs(batch, classes))
    return peak_bytes() - before


def measure_memory(batch: int, classes: int) -> dict[str, Any]:
    """Run ``extra_peak_bytes`` in a separate process."""
    command = [sys.executable, __file__, "--memory-of", str(batch), str(classes)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"batch": batch, "classes": classes, "extra_bytes": int(answer)}


def show(result: dict[str, Any]) -> str:
    """Format the result as text."""
    ratio, memory = result["ratio"], result["memory"]

    def cells(name: str, unit: str) -> str:
        values = ratio[name]
        return f"{values['median']:.3g} {unit} [{values['min']:.3g}, {values['max']:.3g}]"

    return "\n".join(
        [
            f"IKL loss, forward and backward, B={ratio['batch']}, C={ratio['classes']}, float32, "
            f"{result['threads']} threads, torch {result['torch']}, {result['machine']}",
            f"  closed form    {cells('closed_form_ms', 'ms')}",
            f"  pairwise sum   {cells('pairwise_ms', 'ms')}",
            f"  ratio          {cells('ratio', 'times')}, at least {LEAST_RATIO:.0f} expected; "
            f"median [min, max] of {ratio['repeats']}",
            f"  difference     {ratio['difference']:.1e} of the largest entry",
            f"closed form, B={memory['batch']}, C={memory['classes']}: "
            f"{memory['extra_bytes'] / 1e9:.3f} GB extra at peak, inputs included, "
            f"allowed {MOST_EXTRA_BYTES / 1e9:.0f}",
        ]
    )


def main() -> int:
    """Measure and print; the exit status is 1 if the ratio or the memory misses its limit."""
    parser = argparse.ArgumentParser(description="IKL loss: closed form against pairwise sum.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--memory-classes", type=int, default=21841)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--memory-of", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(extra_peak_bytes(*options.memory_of))
        return 0
    # Memory first: a child process inherits its parent's peak.
    memory = measure_memory(options.batch, options.memory_classes)
    result = {
        "memory": memory,
        "ratio": measure_ratio(options.batch, options.classes, options.repeats),
        **machine(),
    }
    fast = result["ratio"]["ratio"]["median"] >= LEAST_RATIO
    met = fast and memory["extra_bytes"] < MOST_EXTRA_BYTES
    return finish(result, show(result), met=met, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
