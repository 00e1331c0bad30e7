"""Pairs of feature maps of two models, at a common size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

S = TypeVar("S")
T = TypeVar("T")


def matched_stages(student: Sequence[S], teacher: Sequence[T]) -> list[tuple[S, T]]:
    """Pair the student's stages with the teacher's, from the last one backwards.

    Args:
        student: one entry for the stem and one for each stage, such as maps or channels.
        teacher: the same for the teacher, which may have more or fewer stages.

    Returns:
        As many pairs as the model with fewer stages has stages, in forward order.
    """
    number = min(len(student), len(teacher)) - 1
    return list(zip(student[-number:], teacher[-number:], strict=True))


def pooled_to(map_BKHW: Tensor, other_BKHW: Tensor) -> Tensor:
    """Return the map, average-pooled to the other's height and width if it is larger."""
    height, width = other_BKHW.shape[-2:]
    if map_BKHW.shape[-2] <= height:
        return map_BKHW
    return adaptive_avg_pool2d(map_BKHW, (height, width))
