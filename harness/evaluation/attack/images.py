"""Saved adversarial images: rounded to eight bits inside the ball, and exported as one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import Norm
from harness.errors import UserError
from harness.evaluation.attack.chunk import adversarial_path
from harness.evaluation.attack.judge import effective_eps
from harness.store.files import write_torch_atomic
from harness.store.rundir import EvaluationDirectory, RunDirectory

LEVELS = 255


def on_grid(adversarial: Tensor, clean: Tensor, norm: Norm, eps: float) -> Tensor:
    """Round images to eight bits inside the ball: uint8 [B, K, H, W].

    Args:
        adversarial: float32 [B, K, H, W] in [0, 1], in the ball.
        clean: the ball's centres; in an L2 ball they must be multiples of 1/255.
        norm: the ball's norm.
        eps: its nominal radius; ``effective_eps`` is the actual one, as everywhere.
    """
    scaled, centre = adversarial.double() * LEVELS, clean.double() * LEVELS
    rounded = scaled.round()
    radius = effective_eps(norm, eps, clean[0].numel()) * LEVELS
    if norm == "Linf":
        low, high = (centre - radius).ceil(), (centre + radius).floor()
        rounded = torch.minimum(torch.maximum(rounded, low), high)
    else:
        centre = centre.round()
        rounded = centre + _drawn_in(rounded - centre, scaled - centre, radius)
    return rounded.clamp(0, LEVELS).to(torch.uint8)


def _drawn_in(steps: Tensor, exact: Tensor, radius: float) -> Tensor:
    """Shorten integer ``steps`` from the centre by 1 in some pixels until their L2 norm fits.

    Pixels that rounding moved furthest outward beyond ``exact`` come first.
    """
    shape, steps, length = steps.shape, steps.flatten(1), exact.flatten(1).abs()
    while True:
        excess = (steps**2).sum(dim=1, keepdim=True) - radius**2
        if bool((excess <= 0).all()):
            return steps.reshape(shape)
        order = (steps.abs() - length).argsort(dim=1, descending=True, stable=True)
        gain = (2 * steps.abs() - 1).clamp(min=0).gather(1, order)
        needed = (gain.cumsum(dim=1) - gain < excess) & (gain > 0)
        drawn = torch.zeros_like(steps).scatter(1, order, needed.to(steps.dtype))
        steps = steps - drawn * steps.sign()


def find_evaluation(run: RunDirectory, name: str | None) -> EvaluationDirectory:
    """Return the finished evaluation of a run whose id starts with ``name``, or the only one.

    Raises:
        UserError: none or several match.
    """
    done = run.finished_evaluations()
    fitting = [each for each in done if each.evaluation_id.startswith(name or "")]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(each.evaluation_id for each in done) or "none"
    which = f"evaluation {name!r}" if name else "the evaluation"
    raise UserError(
        f"{which} of run {run.run_id} is missing or ambiguous: choose one of its finished "
        f"evaluations with --evaluation ({known})"
    )


def export(evaluation: EvaluationDirectory, path: Path) -> tuple[int, ...]:
    """Write the adversarial images as one float32 tensor [N, K, H, W] in test-set order.

    It holds the clean image where no adversarial one was found. This is the format in which
    RobustBench accepts evaluations by others.

    Returns:
        The tensor's shape.

    Raises:
        UserError: images were not saved, or not for every chunk.
    """
    parts = []
    for number in evaluation.finished_chunks():
        kept = adversarial_path(evaluation.chunk_path(number))
        if not kept.exists():
            break
        images = torch.from_numpy(np.load(kept, allow_pickle=False))
        parts.append(images.float() / LEVELS if images.dtype == torch.uint8 else images)
    count = evaluation.record["protocol"]["n"]
    if sum(len(part) for part in parts) != count:
        raise UserError(
            f"evaluation {evaluation.evaluation_id} saved no adversarial images, or not for all "
            f"{count} test images: repeat `evaluate` with --save-adversarial float32"
        )
    # Chunks follow the order of attack, which may differ from that of the rows.
    order = torch.tensor(evaluation.verdicts()["index"].to_pylist()).argsort()
    tensor = torch.cat(parts)
    # For a large test set, each copy of the images takes many gigabytes.
    parts.clear()
    tensor = tensor[order]
    write_torch_atomic(tensor, path)
    return tuple(tensor.shape)
