"""Flags that a model raises when it is queried, outside the verdicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.config import AttackBudget, EvalProtocol, Norm
from harness.evaluation.analysis.flags import Flag, above_chance, grey_eps
from harness.evaluation.attack.job import Job
from harness.evaluation.attack.judge import clip_to_ball, finite, predict
from harness.evaluation.attack.model import AttackModel, within_memory
from harness.evaluation.attack.protocol import make_attack
from harness.evaluation.guards import own_random_state, unit_images
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.precision import pinned

PROBE_IMAGES = 64
LARGE_STEPS = 20
SAME_LOGITS = 1e-5
SUM_TO_ONE = 1e-4


def probe_model(job: Job) -> list[Flag]:
    """The flags that a job's model raises on the first images of its evaluation."""
    n = len(job.images.rows[: job.protocol.limit])
    positions = torch.arange(min(PROBE_IMAGES, n))
    batching = Batching(limit=job.protocol.device_batch)
    model = AttackModel(job.model, job.num_classes, batching)
    x = unit_images(job.images, positions).to(job.device)
    y = job.images.labels[positions].to(job.device)

    def attempt() -> list[Flag | None]:
        with own_random_state(job.device), pinned("reference"):
            with torch.no_grad():
                first, second = model(x), model(x)
            found = [randomised(first, second), softmax_output(first)]
            # Gradients matter only where the evaluation attacks.
            if job.protocol.attacks:
                found.append(zero_gradients(model, x, y))
                correct = predict(first) == y
                if bool(correct.any()):
                    norm = job.protocol.norm
                    found.append(large_eps(model, x[correct], y[correct], norm, len(x)))
            return found

    found = within_memory(batching, len(x), attempt, model.reset)
    return [flag for flag in found if flag is not None]


def randomised(first: Tensor, second: Tensor) -> Flag | None:
    """Two answers [B, C] to the same images differ by more than rounding."""
    both = finite(first) & finite(second)
    scale = max(1.0, float(first[both].abs().amax())) if bool(both.any()) else 1.0
    moved = ((first - second).abs().amax(dim=1) > SAME_LOGITS * scale) & both
    moved |= finite(first) != finite(second)
    if not bool(moved.any()):
        return None
    largest = float((first - second)[both].abs().amax()) if bool(both.any()) else float("nan")
    return Flag(
        "randomised",
        f"two passes of {len(first)} images gave other logits for {int(moved.sum())} of them, by "
        f"up to {largest:.2g}: an attack on the average over passes may break more",
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
        f"{eps:.3g}, where all can become grey: gradients are masked",
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
