"""Reasons to doubt a number, found by facts, that stand beside it wherever it is shown.

The list follows what AutoAttack's authors warn of (Croce and Hein, ICML 2020, and the checks of
their package) and the tests of Carlini et al., On Evaluating Adversarial Robustness, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import scipy
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.evaluation.attack.job import Work
from harness.evaluation.attack.judge import clip_to_ball, finite, predict
from harness.evaluation.attack.model import AttackModel, Judge, within_memory
from harness.evaluation.attack.protocol import AttackBudget, Threat, make_attack
from harness.evaluation.guards import own_random_state, unit_images
from harness.evaluation.speed.batching import Batching
from harness.evaluation.speed.precision import pinned

Facts = Mapping[str, Any]

PROBE_IMAGES = 64
# At these radii an image can become any grey image, which tells a classifier nothing.
LARGE_LINF = 0.5
LARGE_STEPS = 20
# Over chance: a classifier that answers one class everywhere keeps that class's images.
LARGE_EPS_POINTS = 0.1
SQUARE_POINTS = 0.002
TARGETED_POINTS = 0.1
TARGETED_SHARE = 0.25
SAME_LOGITS = 1e-5
SUM_TO_ONE = 1e-4
WHITE_BOX = ("apgd-ce", "apgd-t", "fab-t")


@dataclass(frozen=True)
class Flag:
    """A reason to doubt a number.

    Attributes:
        name: one of a fixed few, for queries.
        detail: what was found, in one clause with its figures.
    """

    name: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        """The fields by name."""
        return asdict(self)


def flags_of(
    work: Work,
    device: torch.device,
    stages: Mapping[str, Facts],
    chunks: Sequence[Facts],
    in_training: Sequence[str],
) -> list[Flag]:
    """All flags of an evaluation whose chunks are finished.

    Args:
        work: the evaluation; its model is on ``device``, in eval mode, its parameters frozen.
        device: where to compute.
        stages: stage name to its facts over all images, in order.
        chunks: the facts of each chunk.
        in_training: modules that were in training mode when the model came.
    """
    n = len(work.images.rows[: work.config.limit])
    positions = torch.arange(min(PROBE_IMAGES, n))
    batching = Batching(limit=work.config.device_batch)
    judge = Judge(work.model, batching)
    attacked = AttackModel(work.model, work.threat.num_classes, batching)
    x = unit_images(work.images, positions).to(device)
    y = work.images.labels[positions].to(device)
    handed = train_mode(in_training)
    clean = sum(int(chunk["clean_not_finite"]) for chunk in chunks)

    def attempt() -> list[Flag]:
        return probe(
            judge,
            attacked,
            x,
            y,
            work.threat,
            attacks=bool(work.config.attacks),
            arithmetic=lambda: pinned("reference"),
        )

    probed = within_memory(batching, len(x), attempt, attacked.reset)
    return [*([handed] if handed else []), *probed, *counted(stages, n, clean)]


def probe(
    model: Callable[[Tensor], Tensor],
    attacked: AttackModel,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    attacks: bool,
    arithmetic: Callable[[], AbstractContextManager[Any]],
) -> list[Flag]:
    """The flags that a few images show, outside the verdicts.

    Args:
        model: maps images [B, K, H, W] to logits [B, C], in eval mode.
        attacked: the same model as attacks see it.
        x: images in [0, 1]; the first ``PROBE_IMAGES`` are used.
        y: their labels [B].
        threat: gives norm and number of classes.
        attacks: whether the protocol attacks, so that gradients matter.
        arithmetic: makes the context that pins arithmetic.
    """
    x, y = x[:PROBE_IMAGES], y[:PROBE_IMAGES]
    with own_random_state(x.device), arithmetic():
        with torch.no_grad():
            first, second = model(x).float(), model(x).float()
        found = [randomised(first, second), softmax_output(first)]
        if attacks:
            found.append(zero_gradients(input_gradients(attacked, x, y)))
            correct = predict(first) == y
            if bool(correct.any()):
                found.append(large_eps(attacked, x[correct], y[correct], threat, len(x)))
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


def input_gradients(attacked: AttackModel, x: Tensor, y: Tensor) -> Tensor:
    """Gradients [B, K, H, W] of the cross-entropy by the images."""
    leaf = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(attacked(leaf), y, reduction="sum"), leaf)
    return gradient


def zero_gradients(gradients: Tensor) -> Flag | None:
    """Some images have no gradient [B, K, H, W] at all."""
    zero = int((gradients == 0).flatten(1).all(dim=1).sum())
    if not zero:
        return None
    return Flag(
        "zero-gradients",
        f"the cross-entropy has no gradient at {zero} of {len(gradients)} images "
        f"({100 * zero / len(gradients):.0f}%): attacks by gradient are blind there",
    )


def large_eps(attacked: AttackModel, x: Tensor, y: Tensor, threat: Threat, n: int) -> Flag | None:
    """Accuracy stays 10 points over chance where every image can become grey.

    The radius is 0.5 in Linf, and what that is at most in L2: 0.5 times the square root of the
    number of pixel values. APGD on the cross-entropy takes ``LARGE_STEPS`` steps.

    Args:
        attacked: the model.
        x: correctly classified images.
        y: their labels.
        threat: gives norm and number of classes.
        n: images of which these are the correctly classified ones.
    """
    eps = LARGE_LINF * (1.0 if threat.norm == "Linf" else x[0].numel() ** 0.5)
    wide = Threat(threat.norm, eps, threat.num_classes, AttackBudget(iterations=LARGE_STEPS))
    attack = make_attack("apgd-ce", attacked, wide, 0, x.device)
    returned = attack.perturb(x.clone(), y.clone()).detach()
    found, _ = clip_to_ball(returned, x, threat.norm, eps)
    with torch.no_grad():
        survived = int((predict(attacked(found)) == y).sum())
    if survived <= (1 / threat.num_classes + LARGE_EPS_POINTS) * n:
        return None
    return Flag(
        "large-eps",
        f"{survived} of {n} images survive {LARGE_STEPS} steps of APGD-CE at {threat.norm} "
        f"{eps:.3g}, where all can become grey: gradients are masked",
    )


def counted(stages: Mapping[str, Facts], n: int, clean_not_finite: int) -> list[Flag]:
    """The flags in the facts of the stages.

    Args:
        stages: stage name to its facts over all images, in the order in which they ran.
        n: images evaluated.
        clean_not_finite: clean images whose logits are not finite.
    """
    found = [
        non_finite(stages, clean_not_finite),
        square_after_white_box(stages, n),
        targeted_gap(stages, n),
        left_ball(stages),
    ]
    return [flag for flag in found if flag is not None]


def non_finite(stages: Mapping[str, Facts], clean: int) -> Flag | None:
    """Logits were not finite somewhere; they count as wrong."""
    attacked = sum(int(facts["not_finite"]) for facts in stages.values())
    if not clean + attacked:
        return None
    return Flag(
        "non-finite",
        f"logits were not finite for {clean} clean images and at {attacked} points on the attacks' "
        "ways; such an answer counts as wrong",
    )


def surely_more(count: int, n: int, share: float) -> bool:
    """Whether so many of ``n`` images say that more than ``share`` of all such images do it.

    That is the exact binomial test at 5%, one-sided: equally, whether the lower end of the
    one-sided 95% Clopper-Pearson interval is over the bar. A bar on the bare share would be crossed
    by 1 image of 360 at 0.2%. With this one it takes 3 of 360, 6 of 1,000 and 29 of 10,000, where
    at a true share of 0.2% fewer than one evaluation in 20 is flagged; a model that hides its
    gradients loses tens of points and is flagged at 40 images already.
    """
    return float(scipy.stats.binomtest(count, n, share, alternative="greater").pvalue) < 0.05


def before(stages: Mapping[str, Facts], name: str) -> list[str]:
    """The stages that ran before one of that name, in order; none where it did not run."""
    names = list(stages)
    return names[: names.index(name)] if name in stages else []


def square_after_white_box(stages: Mapping[str, Facts], n: int) -> Flag | None:
    """Square surely broke more than 0.2 points of what attacks by gradient had left.

    Where none of these ran before it, it says nothing of them.

    The bar is a rule of thumb of AutoAttack's authors; ``surely_more`` allows for ``n``.
    """
    if not any(name in WHITE_BOX for name in before(stages, "square")):
        return None
    broken = int(stages["square"]["broken"])
    if not surely_more(broken, n, SQUARE_POINTS):
        return None
    return Flag(
        "square-after-white-box",
        f"Square broke {broken} of {n} images ({100 * broken / n:.1f} points) that attacks by "
        "gradient had left: gradients may be masked",
    )


def targeted_gap(stages: Mapping[str, Facts], n: int) -> Flag | None:
    """APGD-T surely broke more than 10 points, and a quarter of what was left after APGD-CE."""
    if "apgd-ce" not in before(stages, "apgd-t"):
        return None
    broken, left = int(stages["apgd-t"]["broken"]), int(stages["apgd-t"]["attacked"])
    points = surely_more(broken, n, TARGETED_POINTS)
    if not points or not surely_more(broken, left, TARGETED_SHARE):
        return None
    return Flag(
        "targeted-gap",
        f"APGD-T broke {broken} of the {left} images that were left after APGD-CE "
        f"({100 * broken / n:.1f} points): the cross-entropy's gradient is a poor guide here",
    )


def left_ball(stages: Mapping[str, Facts]) -> Flag | None:
    """An attack returned images outside the ball or [0, 1]; they were put back and judged so."""
    outside = sum(int(facts["left_ball"]) for facts in stages.values())
    if not outside:
        return None
    return Flag(
        "left-ball",
        f"attacks returned {outside} images outside the ball or [0, 1], or not finite; they were "
        "put back before they were judged",
    )


def train_mode(modules: Sequence[str]) -> Flag | None:
    """Modules that were in training mode when the model came."""
    if not modules:
        return None
    shown = ", ".join(modules[:3]) + (", ..." if len(modules) > 3 else "")
    return Flag(
        "train-mode",
        f"the model came in training mode ({shown}) and was evaluated in eval mode, which is right "
        "for BatchNorm and dropout",
    )


def modules_in_training(model: nn.Module) -> list[str]:
    """Names of the modules in training mode that behave otherwise in it; the root is ``model``.

    Of modules that only pass the mode on, the root alone counts, and only if no other does.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    names = [
        name or "model"
        for name, module in model.named_modules()
        if module.training and isinstance(module, kinds)
    ]
    return names or (["model"] if model.training else [])
