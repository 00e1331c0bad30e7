"""Whether compiling a network pays, asked of the clock."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from harness.errors import UserError

# A probe compiles, which takes some 10 to 60 s: it is made where so many seconds could be saved.
WORTH_PROBING_S = 120.0
# About the most that compiling saved of a pass of the networks that we timed on a CPU.
HOPED_FOR = 0.3
# Each clock runs at least so long; what is asked is a difference of some per cent.
TIMED_S = 0.5


@dataclass(frozen=True)
class Passes:
    """How many images an evaluation is expected to run forward, and forward and backward."""

    forward: float
    gradient: float

    def seconds(self, forward_s: float, gradient_s: float) -> float:
        """How long they take, given the seconds of an image."""
        return self.forward * forward_s + self.gradient * gradient_s


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network compiled when first called, for any number of images."""
    made: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=True)
    return made


def pays(
    network: nn.Module, images: Tensor, expected: Passes
) -> tuple[bool, dict[str, float] | None, str]:
    """Whether an evaluation ends sooner if the network is compiled first.

    Args:
        network: in eval mode, its parameters frozen.
        images: one piece [B, K, H, W] as the network will get it, on its device and in its layout.
        expected: the work ahead of this process.

    Returns:
        The answer; seconds of an image each way, of compiling and expected to be saved, or None
        where too little could be saved to ask; and a remark, empty if there is none.
    """
    plain = _seconds(network, images)
    hoped = HOPED_FOR * expected.seconds(*plain)
    if hoped < WORTH_PROBING_S:
        return False, None, f"not compiled: about {hoped:.0f} s could be saved at most"
    began = time.perf_counter()
    fast = compiled(copy.deepcopy(network))
    try:
        warm(fast, images)
    except Exception as error:  # a compiler meets arbitrary code, and may not be installed
        return False, None, f"not compiled: {type(error).__name__}: {first_line(error)}"
    cost = time.perf_counter() - began
    quick = _seconds(fast, images)
    saved = expected.seconds(*plain) - expected.seconds(*quick)
    probe = {
        "forward_s": plain[0],
        "gradient_s": plain[1],
        "compiled_forward_s": quick[0],
        "compiled_gradient_s": quick[1],
        "compiling_s": cost,
        "saves_s": saved,
    }
    # Workers and later calls compile for themselves.
    if saved > cost:
        return True, probe, ""
    return False, probe, "not compiled: it would take longer than it saves"


def answers(network: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, C], and the gradient [B, K, H, W] of a fixed sum of them.

    A tracer leaves out the backward pass that a network defines by itself: only the gradient of its
    copy tells.
    """
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = network(leaf)
        if not logits.requires_grad:
            return logits, torch.zeros_like(leaf)
        weights = torch.linspace(-1, 1, logits.shape[1]).to(logits)
        (gradient,) = torch.autograd.grad(
            (logits * weights).sum(), leaf, allow_unused=True, materialize_grads=True
        )
    return logits.detach(), gradient


def warm(network: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Let it compile what attacks will call."""
    for pass_through in (_forward, answers):
        pass_through(network, images)


def must_compile(network: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Compile a network as an earlier call did.

    Raises:
        UserError: it cannot be compiled here.
    """
    try:
        warm(network, images)
    except Exception as error:
        raise UserError(
            "this evaluation was begun with a compiled network, which cannot be compiled here "
            f"({type(error).__name__}: {first_line(error)}): finish it where it was begun, or "
            "begin another with --set evaluation.accelerate=false"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says; compilers say much."""
    return next(iter(str(error).strip().splitlines()), "")


def _seconds(network: Callable[[Tensor], Tensor], images: Tensor) -> tuple[float, float]:
    """Seconds of an image forward, and forward and backward."""
    forward, gradient = (
        Timer(
            "call(network, images)",
            globals={"call": call, "network": network, "images": images},
            num_threads=torch.get_num_threads(),
        )
        .blocked_autorange(min_run_time=TIMED_S)
        .median
        for call in (_forward, answers)
    )
    return forward / len(images), gradient / len(images)


def _forward(network: Callable[[Tensor], Tensor], images: Tensor) -> Any:
    with torch.no_grad():
        return network(images)
