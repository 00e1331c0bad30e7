"""Accuracy on unperturbed images."""

from __future__ import annotations

import torch
from torch import nn

from harness.data.base import ImageSource
from harness.evaluation.attack.judge import predict
from harness.evaluation.guards import untouched


def clean_accuracy(
    model: nn.Module, images: ImageSource, device: torch.device, batch_size: int = 250
) -> tuple[int, int]:
    """How many images the model classifies correctly in eval mode, and of how many.

    Logits that are not finite are wrong; of equal largest logits the lowest class counts.

    Args:
        model: on ``device``; its mode is restored.
        images: the split.
        device: where to compute.
        batch_size: images at once.
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with untouched(model), torch.no_grad():
        for positions in torch.arange(len(images)).split(batch_size):
            labels = images.labels[positions].to(device)
            logits = model(images.images_float(positions).to(device)).float()
            correct += (predict(logits) == labels).sum()
    return int(correct), len(images)
