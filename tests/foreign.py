"""Networks as users bring them, for digits; each made an evaluation go wrong, or could.

``REFUSED`` and ``ACCEPTED`` map names to functions that build a network, mostly around a small one.
"""

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, relu

Make = Callable[[], nn.Module]


def small() -> nn.Module:
    """A small network whose BatchNorm has non-initial statistics."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 10),
    )  # fmt: skip
    net[1].running_mean.normal_(0, 0.3)
    return net.eval()


class Around(nn.Module):
    """Calls a function with itself and the images; the network is ``net``."""

    def __init__(self, net: nn.Module, answer: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.net, self.answer = net, answer
        for name, value in members.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.answer(self, x)


def around(answer: Callable[..., Any], **members: Any) -> Make:
    return lambda: Around(small(), answer, **{name: make() for name, make in members.items()})


def with_buffer(name: str, value: Tensor) -> Make:
    def make() -> nn.Module:
        net = Around(small(), lambda own, x: own.net(x))
        net.register_buffer(name, value)
        return net

    return make


def hooked() -> nn.Module:
    net = small()
    seen: list[Tensor] = []
    net.seen = seen
    net[2].register_forward_hook(lambda module, inputs, output: seen.append(output))
    return net


def closure() -> nn.Module:
    hidden = small()
    return Around(nn.Identity(), lambda own, x: hidden(x))


def batch_statistics() -> nn.Module:
    net = small()
    net[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return net.eval()


def classes(count: int) -> Make:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, count))


def counting(own: Around, x: Tensor) -> Tensor:
    own.calls += 1
    return own.net(x) * (1 if own.calls < 15 else -1)


def drifting(own: Around, x: Tensor) -> Tensor:
    own.calls += 1
    return own.net(x) + own.calls


def in_place(own: Around, x: Tensor) -> Tensor:
    x -= 0.3
    return own.net(x)


def in_place_data(own: Around, x: Tensor) -> Tensor:
    x.data.sub_(0.3)
    return own.net(x)


def locked(own: Around, x: Tensor) -> Tensor:
    with own.lock:
        return own.net(x)


def masked(own: Around, x: Tensor) -> Tensor:
    logits = own.net(x).clone()
    logits[:, 9] = -torch.inf
    return logits


def mean_of(members: Any, x: Tensor) -> Tensor:
    return sum(member(x) for member in members) / len(members)


# Networks that are refused, with the error message.
REFUSED: dict[str, tuple[Make, str]] = {
    "float64 buffer": (
        with_buffer("mean", torch.ones(1, dtype=torch.float64)),
        r"float64 buffers \(mean\).*call \.float",
    ),
    "float16 buffer": (
        with_buffer("mean", torch.ones(1, dtype=torch.float16)),
        r"float16 buffers \(mean\)",
    ),
    "complex buffer": (
        with_buffer("phase", torch.ones(1, dtype=torch.complex64)),
        r"complex64 buffers \(phase\)",
    ),
    "float64": (lambda: small().double(), r"float64 parameters \(0\.weight\).*call \.float"),
    "bfloat16": (lambda: small().bfloat16(), r"bfloat16 parameters"),
    "one layer in half precision": (
        lambda: nn.Sequential(*small()[:4], small()[4].half()),
        r"float16 parameters \(4\.weight\)",
    ),
    "integers": (around(lambda own, x: own.net(x).long()), "returns int64, not float logits"),
    "classes": (
        around(lambda own, x: own.net(x).argmax(1)),
        r"not return logits \[B, C\].*returns \[3\]",
    ),
    "booleans": (around(lambda own, x: own.net(x) > 0), "returns bool, not float logits"),
    "complex": (
        around(lambda own, x: own.net(x).to(torch.complex64)),
        "returns complex64, not float",
    ),
    "a tuple": (around(lambda own, x: (own.net(x), x)), "not return logits .*returns tuple"),
    "a dict": (around(lambda own, x: {"logits": own.net(x)}), "not return logits .*returns dict"),
    "arrays": (around(lambda own, x: own.net(x).numpy()), "not return logits .*returns ndarray"),
    "feature maps": (
        around(lambda own, x: own.net[0](x)),
        r"not return logits .*returns \[3, 8, 8, 8\]",
    ),
    "squeezed": (around(lambda own, x: own.net(x).squeeze()), r"for 1 image it returns \[10\]"),
    "one row for all": (
        around(lambda own, x: own.net(x).mean(0, keepdim=True)),
        r"for 3 images it returns \[1, 10\]",
    ),
    "always a pair": (
        around(lambda own, x: own.net(torch.cat([x, x])[:2])),
        r"for 3 images it returns \[2, 10\]",
    ),
    "needs a pair": (
        around(lambda own, x: own.net(x) + x[1, 0, 0, 0]),
        "cannot take a single image .*IndexError",
    ),
    "BatchNorm of a vector": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 10)
        ),
        "cannot take a single image .*ValueError",
    ),
    "three channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)),
        "cannot take digits images of 1x8x8",
    ),
    "larger images": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)),
        "cannot take digits images of 1x8x8",
    ),
    "100 classes": (classes(100), "has 100 classes, but digits has 10"),
    "9 classes": (classes(9), "has 9 classes, but digits has 10"),
    "one logit": (classes(1), "has 1 classes, but digits has 10"),
    "NaN": (around(lambda own, x: own.net(x) * torch.nan), "returns NaN"),
    "list": (
        around(lambda own, x: mean_of(own.nets, x), nets=lambda: [small(), small()]),
        r"not registered with it \(a Sequential in the list nets\).*ModuleList",
    ),
    "tuple": (
        around(lambda own, x: mean_of(own.nets, x), nets=lambda: (small(),)),
        "a Sequential in the tuple nets",
    ),
    "dict": (
        around(lambda own, x: own.nets["a"](x), nets=lambda: {"a": small()}),
        "a Sequential in the dict nets",
    ),
    "closure": (closure, r"not registered with it \(a Sequential\)"),
    "lambda in an attribute": (
        around(lambda own, x: own.call(x), call=lambda: small().forward),
        "not registered with it",
    ),
    "dropout made in the forward pass": (
        around(lambda own, x: own.net(nn.Dropout()(x))),
        r"\(a Dropout\)",
    ),
    "nested list": (
        lambda: nn.Sequential(Around(nn.Identity(), lambda own, x: own.nets[0](x), nets=[small()])),
        r"in the list 0\.nets",
    ),
    "raises": (around(lambda own, x: own.absent(x)), "cannot take digits images .*AttributeError"),
}

# Networks that are evaluated, with the names of their flags, whether the plan must be the plain
# one, and the note about them.
ACCEPTED: dict[str, tuple[Make, set[str], bool, str]] = {
    "plain": (small, set(), False, ""),
    "in place": (around(in_place), set(), False, "writes into the images"),
    "in place, on the data": (around(in_place_data), set(), False, "writes into the images"),
    "first ReLU in place": (
        around(lambda own, x: own.net(relu(x - 0.1, inplace=True))),
        set(),
        False,
        "",
    ),
    "lock": (around(locked, lock=threading.Lock), set(), True, ""),
    "hook that keeps outputs": (hooked, set(), True, ""),
    "scripted": (lambda: torch.jit.script(small()), set(), True, ""),
    "traced": (lambda: torch.jit.trace(small(), torch.rand(2, 1, 8, 8)), set(), True, ""),
    "scripted inside": (
        lambda: Around(torch.jit.script(small()), lambda own, x: own.net(x)),
        set(),
        True,
        "",
    ),
    "generator": (
        around(lambda own, x: own.net(x), numbers=lambda: (n for n in range(3))),
        set(),
        True,
        "",
    ),
    "standardises each image": (
        around(
            lambda own, x: own.net(
                (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
            )
        ),
        set(),
        False,
        "",
    ),
    "masked class": (around(masked), set(), False, ""),
    "float64 logits": (around(lambda own, x: own.net(x).double()), set(), False, ""),
    "ReLU made in the forward pass": (
        around(lambda own, x: own.net(nn.ReLU()(x))),
        set(),
        False,
        "",
    ),
    "unused member in a list": (
        around(lambda own, x: own.net(x), teacher=lambda: [small()]),
        set(),
        False,
        "",
    ),
    "registered ensemble": (
        around(lambda own, x: mean_of(own.nets, x), nets=lambda: nn.ModuleList([small(), small()])),
        set(),
        False,
        "",
    ),
    "batch statistics": (batch_statistics, {"batch-dependent"}, False, ""),
    "mean of the batch": (
        around(lambda own, x: own.net(x - x.mean(0))),
        {"batch-dependent"},
        False,
        "",
    ),
    "neighbours": (
        around(lambda own, x: own.net(x) + own.net(x.roll(1, 0))),
        {"batch-dependent"},
        False,
        "",
    ),
    "dropout": (around(lambda own, x: own.net(dropout(x, 0.5))), {"randomised"}, False, ""),
    "noise": (
        around(lambda own, x: own.net(x + 0.1 * torch.randn_like(x))),
        {"randomised"},
        False,
        "",
    ),
    "NumPy's noise": (
        around(lambda own, x: own.net(x) + np.random.rand()),
        {"randomised"},
        False,
        "",
    ),
    "Python's noise": (
        around(lambda own, x: own.net(x) * random.random()),
        {"randomised"},
        False,
        "",
    ),
    "counts": (around(drifting, calls=int), {"randomised"}, False, ""),
    "turns after some calls": (around(counting, calls=int), {"stateful"}, False, ""),
    "softmax": (around(lambda own, x: own.net(x).softmax(1)), {"softmax-output"}, False, ""),
    "no gradient": (around(lambda own, x: own.net(x.detach())), {"zero-gradients"}, False, ""),
    "in bytes": (
        around(lambda own, x: own.net((x * 255).round() / 255)),
        {"zero-gradients"},
        False,
        "",
    ),
}
