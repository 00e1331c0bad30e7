"""A small part of training steps that methods share."""

from __future__ import annotations

from torch import Tensor


def detached(**parts: Tensor) -> dict[str, Tensor]:
    """Named tensors without their gradients, for ``StepOutput``'s parts and extras."""
    return {name: value.detach() for name, value in parts.items()}
