"""Accuracy on unperturbed images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from harness.data.base import ImageSource
from harness.evaluation.attack.judge import predict
from harness.evaluation.guards import untouched

BATCH = 250


def clean_accuracy(model: nn.Module, images: ImageSource, device: torch.device) -> tuple[int, int]:
    """Return how many images of a split the model classifies correctly, and how many there are.

    Args:
        model: on ``device``; evaluated in eval mode, then its mode is restored.
        images: the split.
        device: where to compute.
    """
    positions = torch.arange(len(images)).split(BATCH)
    with untouched(model):
        batches = ((images.images_float(p), images.labels[p]) for p in positions)
        return count_correct(model, batches, device), len(images)


def count_correct(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> int:
    """Count the images that the model classifies correctly.

    Non-finite logits count as wrong; of equal largest logits, the lowest class is the prediction.

    Args:
        model: in eval mode, on ``device``.
        batches: images [B, K, H, W] in [0, 1] and their labels [B].
        device: where to compute.
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.no_grad():
        for x, labels in batches:
            correct += (predict(model(x.to(device)).float()) == labels.to(device)).sum()
    return int(correct)
