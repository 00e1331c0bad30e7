"""Pin and record how float32 is computed: which shortcuts kernels may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

# ``reference`` is torch's default, with which the reference numbers were computed: TensorFloat-32
# in convolutions if the GPU has it, and full float32 in matrix products.
Mode = Literal["reference", "strict"]

_CONVOLUTIONS = ("cudnn.conv", "cudnn.rnn")
_PRODUCTS = ("cuda.matmul", "mkldnn.conv", "mkldnn.matmul", "mkldnn.rnn")


@contextmanager
def pinned(mode: Mode) -> Iterator[dict[str, Any]]:
    """Pin how float32 is computed, and deterministic kernels; restore all settings afterwards.

    Args:
        mode: ``strict`` is IEEE float32 everywhere; ``reference`` allows TensorFloat-32 in cuDNN
            convolutions.

    Yields:
        The settings, for the record.
    """
    convolutions = "tf32" if mode == "reference" else "ieee"
    precisions = dict.fromkeys(_CONVOLUTIONS, convolutions) | dict.fromkeys(_PRODUCTS, "ieee")
    cudnn = torch.backends.cudnn
    before = _precisions()
    choice = cudnn.benchmark, cudnn.deterministic
    _set_precisions(precisions)
    # Autotuning picks kernels by timing them, and the fastest may sum in any order.
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield {"mode": mode, **_precisions(), "cudnn.benchmark": False, "cudnn.deterministic": True}
    finally:
        _set_precisions(before)
        cudnn.benchmark, cudnn.deterministic = choice


def arithmetic() -> dict[str, dict[str, Any]]:
    """Return the settings for the attacks and for the judge, for an evaluation's record."""
    modes: dict[str, Mode] = {"attacks": "reference", "judge": "strict"}
    found = {}
    for role, mode in modes.items():
        with pinned(mode) as settings:
            found[role] = settings
    return found


def _operation(path: str) -> Any:
    backend, _, operation = path.partition(".")
    return getattr(getattr(torch.backends, backend), operation)


def _precisions() -> dict[str, str]:
    return {path: _operation(path).fp32_precision for path in (*_CONVOLUTIONS, *_PRODUCTS)}


def _set_precisions(precisions: dict[str, str]) -> None:
    for path, value in precisions.items():
        _operation(path).fp32_precision = value
