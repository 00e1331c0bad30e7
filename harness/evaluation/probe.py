"""Flags found by querying the model directly, independently of the verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.config import AttackBudget, EvalProtocol, Norm, eps_text
from harness.evaluation.analysis.flags import Flag, above_chance, grey_eps, significantly_more
from harness.evaluation.attack.job import Job
from harness.evaluation.attack.judge import clip_to_ball, finite, predict
from harness.evaluation.attack.model import AttackModel, within_memory
from harness.evaluation.attack.stages import make_attack
from harness.evaluation.guards import own_random_state, unit_images
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.precision import pinned
from harness.models.normalize import Normalized

T = TypeVar("T")
PROBE_IMAGES = 64
SINGLE_IMAGES = 8
LARGE_STEPS = 20
SAME_LOGITS = 1e-5
# Far above the rounding of float32, which may differ with the batch size.
BATCH_LOGITS = 1e-3
SUM_TO_ONE = 1e-4
CLEAN_IMAGES = 128
# A difference in accuracy this large is not due to chance.
CLEARLY_BETTER = 0.1


class Probe:
    """Query a job's model on the first images of its split, before and after the attacks.

    Args:
        job: the evaluation.
    """

    def __init__(self, job: Job) -> None:
        """Prepare the images."""
        self.job = job
        positions = torch.arange(min(PROBE_IMAGES, len(job.images.rows[: job.protocol.limit])))
        self.x = unit_images(job.images, positions).to(job.device)
        self.y = job.images.labels[positions].to(job.device)
        self._before = torch.empty(0)

    def before_attacks(self) -> list[Flag]:
        """Return the flags that the model raises before it is attacked."""

        def attempt(model: AttackModel) -> list[Flag | None]:
            with torch.no_grad():
                first, second = model(self.x), model(self.x)
            again = randomised(first, second)
            self._before = torch.empty(0) if again else first
            found = [again, softmax_output(first)]
            if again is None:
                found.append(batch_dependent(model, self.x))
            # Gradients matter only to attacks.
            if self.job.protocol.attacks:
                found.append(zero_gradients(model, self.x, self.y))
                correct = predict(first) == self.y
                if bool(correct.any()):
                    norm = self.job.protocol.norm
                    x, y = self.x[correct], self.y[correct]
                    found.append(large_eps(model, x, y, norm, len(self.x)))
            return found

        return [flag for flag in self._queried(attempt) if flag is not None]

    def after_attacks(self) -> list[Flag]:
        """Return a flag if the logits have changed since ``before_attacks``; call it last."""

        def attempt(model: AttackModel) -> list[Flag | None]:
            with torch.no_grad():
                return [stateful(self._before, model(self.x))]

        found = self._queried(attempt) if len(self._before) else []
        return [flag for flag in found if flag is not None]

    def _queried(self, attempt: Callable[[AttackModel], list[T]]) -> list[T]:
        """Run the attempt on the original model, with smaller batches if memory runs out."""
        job, batching = self.job, Batching(limit=self.job.protocol.device_batch)
        model = AttackModel(job.model, job.num_classes, batching)

        def queried() -> list[T]:
            with own_random_state(job.device), pinned("reference"):
                return attempt(model)

        return within_memory(batching, len(self.x), queried, model.reset)


def randomised(first: Tensor, second: Tensor) -> Flag | None:
    """Flag logits [B, C] of the same images that differ by more than rounding."""
    moved, largest = moved_rows(first, second, SAME_LOGITS)
    if not moved:
        return None
    return Flag(
        "randomised",
        f"two passes of {len(first)} images gave different logits for {moved} of them, by "
        f"up to {largest:.2g}: an attack on the average over passes may break more",
    )


def moved_rows(first: Tensor, second: Tensor, tolerance: float) -> tuple[int, float]:
    """Return how many rows of two sets of logits [B, C] differ, and the largest difference.

    The tolerance is relative to the largest finite logit, or to 1 if that is smaller.
    """
    both = finite(first) & finite(second)
    scale = max(1.0, float(first.nan_to_num(0.0, 0.0, 0.0).abs().max()))
    # The difference of equal infinities is NaN, and counts as 0.
    difference = torch.where(first == second, 0.0, (first - second).abs())
    moved = ((difference.amax(dim=1) > tolerance * scale) & both) | (
        finite(first) != finite(second)
    )
    largest = float(difference[both].max()) if bool(both.any()) else float("nan")
    return int(moved.sum()), largest


def batch_dependent(model: AttackModel, x: Tensor) -> Flag | None:
    """Flag images whose logits alone and in a batch differ by far more than rounding."""
    single = x[:SINGLE_IMAGES]
    with torch.no_grad(), pinned("strict"):
        together = model(x)[: len(single)]
        alone = torch.cat([model(image[None]) for image in single])
    moved, largest = moved_rows(together, alone, BATCH_LOGITS)
    if not moved or len(x) == 1:
        return None
    return Flag(
        "batch-dependent",
        f"{moved} of {len(single)} images got different logits alone and in a batch of {len(x)}, "
        f"by up to {largest:.2g}: the images of a batch affect each other, and the result depends "
        "on how they are batched",
    )


def stateful(before: Tensor, after: Tensor) -> Flag | None:
    """Flag logits [B, C] of the same images that differ before and after the attacks."""
    moved, largest = moved_rows(before, after, SAME_LOGITS)
    if not moved:
        return None
    return Flag(
        "stateful",
        f"after the attacks {moved} of {len(before)} images got different logits, by up to "
        f"{largest:.2g}: the model's output depends on its earlier inputs",
    )


def normalisation(job: Job) -> Flag | None:
    """Flag an external model that is no better than guessing, or better on normalised images.

    The images are spread over the whole split, which may be sorted by class.
    """
    images, info = job.images, job.images.info
    positions = torch.linspace(0, len(images) - 1, min(CLEAN_IMAGES, len(images))).long().unique()
    x = unit_images(images, positions).to(job.device)
    y = images.labels[positions].to(job.device)

    def right(network: nn.Module) -> int:
        batching = Batching(limit=job.protocol.device_batch)
        model = AttackModel(network, job.num_classes, batching)
        with torch.no_grad(), own_random_state(job.device), pinned("strict"):
            logits = within_memory(batching, len(x), lambda: model(x), model.reset)
        return int((predict(logits) == y).sum())

    n, plain = len(x), right(job.model)
    behind = Normalized(job.model, info.mean, info.std).to(job.device).eval()
    better = right(behind) if any(info.mean) else 0
    if better > plain + CLEARLY_BETTER * n:
        return Flag(
            "normalisation",
            f"{plain} of {n} images are classified correctly, but {better} when they are "
            f"normalised by the mean and std of {info.name}: set normalize to dataset",
        )
    if significantly_more(plain, n, 1 / info.num_classes):
        return None
    return Flag(
        "near-chance",
        f"{plain} of {n} images are classified correctly, no more than by guessing among "
        f"{info.num_classes} classes: check weights, normalisation and the order of classes",
    )


def softmax_output(logits: Tensor) -> Flag | None:
    """Flag logits [B, C] that are all probabilities."""
    sums = (logits.sum(dim=1) - 1).abs() <= SUM_TO_ONE
    inside = ((logits >= 0) & (logits <= 1)).all(dim=1)
    if not bool((sums & inside).all()):
        return None
    return Flag(
        "softmax-output",
        f"the outputs for all {len(logits)} images lie in [0, 1] and sum to 1: losses on logits "
        "lose their gradient through a softmax; evaluate the network without it",
    )


def zero_gradients(attacked: AttackModel, x: Tensor, y: Tensor) -> Flag | None:
    """Flag images at which the gradient of the cross-entropy is zero."""
    leaf = x.detach().clone().requires_grad_()
    (gradients,) = torch.autograd.grad(cross_entropy(attacked(leaf), y, reduction="sum"), leaf)
    zero = int((gradients == 0).flatten(1).all(dim=1).sum())
    if not zero:
        return None
    return Flag(
        "zero-gradients",
        f"the gradient of the cross-entropy is zero at {zero} of {len(gradients)} images "
        f"({100 * zero / len(gradients):.0f}%): gradient-based attacks are blind there",
    )


def large_eps(attacked: AttackModel, x: Tensor, y: Tensor, norm: Norm, n: int) -> Flag | None:
    """Flag above-chance accuracy after a short APGD-CE at a radius where all images can turn grey.

    Args:
        attacked: the model.
        x: correctly classified images.
        y: their labels.
        norm: of the ball.
        n: number of images before the misclassified ones were left out.
    """
    eps = grey_eps(norm, x[0].numel())
    wide = EvalProtocol(norm=norm, eps=eps, budget=AttackBudget(n_iter=LARGE_STEPS))
    attack = make_attack("apgd-ce", attacked, wide, 0, x.device)
    returned = attack.perturb(x.clone(), y.clone()).detach()
    found, _ = clip_to_ball(returned, x, norm, eps)
    with torch.no_grad():
        survived = int((predict(attacked(found)) == y).sum())
    if not above_chance(survived, n, attacked.num_classes):
        return None
    return Flag(
        "large-eps",
        f"{survived} of {n} images survive {LARGE_STEPS} steps of APGD-CE at {norm} "
        f"{eps_text(eps)}, where every image can turn grey: gradients are masked",
    )


def train_mode(model: nn.Module) -> list[Flag]:
    """Flag a model in training mode, and name the BatchNorm and dropout modules that are in it.

    If none of these is in training mode, but the model itself is, the model is named.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    names = [
        name or "model"
        for name, module in model.named_modules()
        if module.training and isinstance(module, kinds)
    ]
    names = names or (["model"] if model.training else [])
    if not names:
        return []
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    detail = (
        f"the model was in training mode ({shown}) and was evaluated in eval mode, as BatchNorm "
        "and dropout require"
    )
    return [Flag("train-mode", detail)]
