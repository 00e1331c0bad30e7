"""A helper for the training steps of methods."""

from __future__ import annotations

from torch import Tensor


def detached(**parts: Tensor) -> dict[str, Tensor]:
    """Detach named tensors, for the parts and extras of ``StepOutput``."""
    return {name: value.detach() for name, value in parts.items()}
