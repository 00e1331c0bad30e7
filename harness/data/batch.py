"""One training batch, and the attack that a task plans for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttackPlan:
    """The attack that a task proposes for each image of a batch, in pixel space.

    The engine follows it and then clips the images to the radius of the run's attack and to [0, 1].

    Attributes:
        eps_B: the radius for each image, [B].
        step_size_B: the step size for each image, [B].
        steps_B: the number of steps for each image, [B], int64 >= 0.
        start_eps: the radius of the uniform starting point.
    """

    eps_B: Tensor
    step_size_B: Tensor
    steps_B: Tensor
    start_eps: float


@dataclass
class Batch:
    """One training batch on the device.

    Attributes:
        x: images [B, K, H, W] in [0, 1], augmented.
        y: labels [B], int64 in [0, C); for a mixed image, the label of its larger part.
        index: rows of the training set [B], int64; -1 for generated images, which are not in it.
        epoch: the current epoch, from 1.
        x_adv: adversarial images, shaped like ``x``; set by the engine when the task attacks.
        plan: the task's attack plan for this batch; set by the engine.
        view: identifies the view that the random crop and flip made of each image: index
            times the number of views, plus the view's number; int64 [B], always on the CPU, where
            it is drawn and looked up. None if the loader does not number views.
        teacher_output: the teacher's logits [B, C] of ``x``, float32 and detached; set by the
            engine for a task that needs them.
        others: further views of the same images, changed by AutoAugment and cropped and flipped
            independently, for a task that needs them; the task attacks them itself.
        soft_labels: the share of each class [B, C], float32, in a batch mixed by CutMix.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    x_adv: Tensor | None = None
    plan: AttackPlan | None = None
    view: Tensor | None = None
    teacher_output: Tensor | None = None
    others: tuple[Batch, ...] = ()
    soft_labels: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """The targets of a cross-entropy: ``y``, or ``soft_labels`` for a mixed batch."""
        return self.y if self.soft_labels is None else self.soft_labels

    @property
    def adversarial(self) -> Tensor:
        """``x_adv``; ``RuntimeError`` if it is None, as in a run without an attack."""
        if self.x_adv is None:
            raise RuntimeError("this batch has no adversarial images: the run has no attack")
        return self.x_adv

    @property
    def teacher_logits(self) -> Tensor:
        """``teacher_output``; ``RuntimeError`` if it is None: the task must request it."""
        if self.teacher_output is None:
            raise RuntimeError(
                "this batch has no teacher logits: the task's class must set needs_teacher_logits"
            )
        return self.teacher_output
