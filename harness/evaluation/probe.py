"""Flags that a model raises when it is queried, outside the verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.config import AttackBudget, EvalProtocol, Norm, eps_text
from harness.evaluation.analysis.flags import Flag, above_chance, grey_eps, surely_more
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
# Far above the rounding of float32, of which batches of other sizes may have another one.
BATCH_LOGITS = 1e-3
SUM_TO_ONE = 1e-4
CLEAN_IMAGES = 128
# An accuracy that is by so much higher is so for a reason.
CLEARLY_BETTER = 0.1


class Probe:
    """Queries of a job's model on the first images of its evaluation, before and after attacks.

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
        """The flags that the model raises before it is attacked."""

        def attempt(model: AttackModel) -> list[Flag | None]:
            with torch.no_grad():
                first, second = model(self.x), model(self.x)
            again = randomised(first, second)
            self._before = torch.empty(0) if again else first
            found = [again, softmax_output(first)]
            if again is None:
                found.append(batch_dependent(model, self.x))
            # Gradients matter only where the evaluation attacks.
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
        """The flag of a model that now answers otherwise than before; call it last."""

        def attempt(model: AttackModel) -> list[Flag | None]:
            with torch.no_grad():
                return [stateful(self._before, model(self.x))]

        found = self._queried(attempt) if len(self._before) else []
        return [flag for flag in found if flag is not None]

    def _queried(self, attempt: Callable[[AttackModel], list[T]]) -> list[T]:
        """What the attempt finds by the untouched model, within memory."""
        job, batching = self.job, Batching(limit=self.job.protocol.device_batch)
        model = AttackModel(job.model, job.num_classes, batching)

        def queried() -> list[T]:
            with own_random_state(job.device), pinned("reference"):
                return attempt(model)

        return within_memory(batching, len(self.x), queried, model.reset)


def randomised(first: Tensor, second: Tensor) -> Flag | None:
    """Two answers [B, C] to the same images differ by more than rounding."""
    moved, largest = moved_rows(first, second, SAME_LOGITS)
    if not moved:
        return None
    return Flag(
        "randomised",
        f"two passes of {len(first)} images gave other logits for {moved} of them, by "
        f"up to {largest:.2g}: an attack on the average over passes may break more",
    )


def moved_rows(first: Tensor, second: Tensor, tolerance: float) -> tuple[int, float]:
    """How many rows of two answers [B, C] differ, and by how much at most.

    The tolerance is relative to the largest finite logit, or to 1 if that is smaller.
    """
    both = finite(first) & finite(second)
    scale = max(
        1.0,
        float(first[torch.isfinite(first)].abs().max())
        if bool(torch.isfinite(first).any())
        else 0.0,
    )
    # Equal infinities have no difference.
    difference = torch.where(first == second, 0.0, (first - second).abs())
    moved = ((difference.amax(dim=1) > tolerance * scale) & both) | (
        finite(first) != finite(second)
    )
    largest = float(difference[both].max()) if bool(both.any()) else float("nan")
    return int(moved.sum()), largest


def batch_dependent(model: AttackModel, x: Tensor) -> Flag | None:
    """Some image gets other logits alone than among the others, far beyond rounding."""
    single = x[:SINGLE_IMAGES]
    with torch.no_grad(), pinned("strict"):
        together = model(x)[: len(single)]
        alone = torch.cat([model(image[None]) for image in single])
    moved, largest = moved_rows(together, alone, BATCH_LOGITS)
    if not moved or len(x) == 1:
        return None
    return Flag(
        "batch-dependent",
        f"{moved} of {len(single)} images got other logits alone than in a batch of {len(x)}, by "
        f"up to {largest:.2g}: the images see each other, and the result depends on how they are "
        "cut into batches",
    )


def stateful(before: Tensor, after: Tensor) -> Flag | None:
    """Answers [B, C] to the same images before and after the attacks differ."""
    moved, largest = moved_rows(before, after, SAME_LOGITS)
    if not moved:
        return None
    return Flag(
        "stateful",
        f"after the attacks {moved} of {len(before)} images got other logits than before, by up "
        f"to {largest:.2g}: the model's answers depend on what it was asked before",
    )


def normalisation(job: Job) -> Flag | None:
    """An external model is no better than guessing, or better on normalised images.

    Images are taken from all of the split, since folders of classes are in order.
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
            f"{plain} of {n} images are classified correctly as they are, but {better} once they "
            f"are normalised by the mean and std of {info.name}: give --normalize dataset",
        )
    if surely_more(plain, n, 1 / info.num_classes):
        return None
    return Flag(
        "near-chance",
        f"{plain} of {n} images are classified correctly, no more than by guessing among "
        f"{info.num_classes} classes: check the weights, --normalize and the order of classes",
    )


def softmax_output(logits: Tensor) -> Flag | None:
    """All answers [B, C] are probabilities."""
    sums = (logits.sum(dim=1) - 1).abs() <= SUM_TO_ONE
    inside = ((logits >= 0) & (logits <= 1)).all(dim=1)
    if not bool((sums & inside).all()):
        return None
    return Flag(
        "softmax-output",
        f"the answers to all of {len(logits)} images lie in [0, 1] and sum to 1: losses on logits "
        "lose their gradient through a softmax; evaluate the network without it",
    )


def zero_gradients(attacked: AttackModel, x: Tensor, y: Tensor) -> Flag | None:
    """The cross-entropy has no gradient at all at some of the images."""
    leaf = x.detach().clone().requires_grad_()
    (gradients,) = torch.autograd.grad(cross_entropy(attacked(leaf), y, reduction="sum"), leaf)
    zero = int((gradients == 0).flatten(1).all(dim=1).sum())
    if not zero:
        return None
    return Flag(
        "zero-gradients",
        f"the cross-entropy has no gradient at {zero} of {len(gradients)} images "
        f"({100 * zero / len(gradients):.0f}%): attacks by gradient are blind there",
    )


def large_eps(attacked: AttackModel, x: Tensor, y: Tensor, norm: Norm, n: int) -> Flag | None:
    """A short APGD-CE at a radius where every image can become grey leaves accuracy above chance.

    Args:
        attacked: the model.
        x: correctly classified images.
        y: their labels.
        norm: of the ball.
        n: images of which these are the correctly classified ones.
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
        f"{eps_text(eps)}, where all can become grey: gradients are masked",
    )


def train_mode(model: nn.Module) -> list[Flag]:
    """The flag of a model in training mode, if modules that behave otherwise in it are.

    Of modules that only pass the mode on, the root alone counts, and only if no other does.
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
        f"the model came in training mode ({shown}) and was evaluated in eval mode, which is "
        "right for BatchNorm and dropout"
    )
    return [Flag("train-mode", detail)]
