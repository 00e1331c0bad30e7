"""What a method is to the engine: a card, its parameters, its training task and its recipes.

A method is one file that defines ``METHOD = Method(...)``. The engine never asks which method it
runs; it asks the task for an attack objective and for a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from harness.config import Strict

Forward = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor], Tensor]


class Params(Strict):
    """Base of a method's parameters: frozen, and an unknown name is an error."""


@dataclass(frozen=True)
class MethodCard:
    """What a reader is told of a method.

    Attributes:
        title: the name as papers print it.
        family: what it trains for.
        summary: the idea in one sentence.
        formula: the training loss in LaTeX, with parameters under their names here.
        paper: authors, title, venue, year.
        url: where the paper is.
        tables: tables of the reference paper that hold a row of it.
        notes: where released code and paper differ, and what was chosen.
        bibtex: the entry to cite.
        needs_teacher: whether a trained teacher network must be given.
        released_names: our parameter name to the name in the authors' released code.
    """

    title: str
    family: Literal["natural", "adversarial", "distillation"]
    summary: str
    formula: str
    paper: str
    url: str = ""
    tables: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    bibtex: str = ""
    needs_teacher: bool = False
    released_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackPlan:
    """How a task would have each image of a batch attacked, in pixel space.

    The engine walks it and then clips the images to the radius of the run's attack and to [0, 1].

    Attributes:
        eps_B: the radius of each image's walk, [B].
        step_size_B: the length of its steps, [B].
        steps_B: their number, [B], int64 >= 0.
        start_eps: the radius of a uniform starting point.
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
        y: labels [B], int64 in [0, C).
        index: rows of the training set [B], int64; -1 for a generated image, which is not in it.
        epoch: the current epoch, from 1.
        x_adv: adversarial images like ``x``; set by the engine when the task attacks.
        plan: what the task proposed for this batch; set by the engine.
        view: which of the views that its random crop and flip can show each image is: index times
            the views of an image, plus the view's number; int64 [B], on the CPU whatever the
            device, where it is drawn and looked up. None where views are not finitely many.
        teacher_logits: the teacher's logits [B, C] of ``x``, float32 and detached; set by the
            engine for a task that asks for them.
        others: further views of the same images, changed by AutoAugment, cropped and flipped anew,
            for a task that asks for them; what attacks find for them is the task's to set.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    x_adv: Tensor | None = None
    plan: AttackPlan | None = None
    view: Tensor | None = None
    teacher_logits: Tensor | None = None
    others: tuple[Batch, ...] = ()

    @property
    def adversarial(self) -> Tensor:
        """``x_adv``, which must have been made: a task without an attack has none."""
        if self.x_adv is None:
            raise RuntimeError("this batch holds no adversarial images: the run has no attack")
        return self.x_adv

    @property
    def taught(self) -> Tensor:
        """``teacher_logits``, which must have been made: a task asks for them by its class."""
        if self.teacher_logits is None:
            raise RuntimeError(
                "this batch holds no logits of a teacher: the task's class must set teacher_logits"
            )
        return self.teacher_logits


@dataclass
class StepOutput:
    """What a task's loss returns.

    Attributes:
        loss: scalar to minimise.
        parts: named scalars of which the loss is made, for the log.
        extras: detached tensors that ``observe`` needs (for example clean logits).
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskContext:
    """What the engine tells a task at its making.

    Attributes:
        num_classes: C.
        epochs: of the training.
        train_size: images of the training set, N.
        device: where the training runs.
        teacher: the trained teacher, on the device, in eval mode, without gradients; it takes
            images in [0, 1]. It belongs to the engine: a task that made it its own submodule would
            write it into every checkpoint, and is refused.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.
        student: the network that is trained, for its shapes and layers; ``Task.loss`` is given its
            forward. As of the teacher, a task must not make it its own submodule.
        train_labels: labels [N] of the training set, in the order of ``Batch.index``.
    """

    num_classes: int
    epochs: int
    train_size: int
    device: torch.device
    teacher: nn.Module | None = None
    in_channels: int = 3
    image_size: int = 32
    student: nn.Module | None = None
    train_labels: Tensor | None = None


class LookaheadView(Protocol):
    """What the engine lets a task do before a step, without touching the network."""

    @property
    def model(self) -> nn.Module:
        """The network in training, in the attack's mode."""

    @property
    def generator(self) -> torch.Generator:
        """The step's source of chance, on the device; the same after a restart."""

    @property
    def rate_factor(self) -> float:
        """The epoch's learning rate over the base rate."""

    def attack(self, batch: Batch) -> Tensor:
        """The images that the attack finds for a batch and its plan, not yet clipped."""

    def look_ahead(
        self, loss: Callable[[Forward], Tensor], perturbation_loss: Callable[[Forward], Tensor]
    ) -> nn.Module:
        """A copy of the network after one descent on the loss, in training mode.

        The step is the run's own, without the momentum of earlier ones: at the epoch's rate, with
        weight decay, and at weights perturbed along ``perturbation_loss`` where the run does so.
        """


class Task(nn.Module):
    """A method's part of a training step.

    Buffers and parameters of the task belong to the run: they are checkpointed, and parameters are
    optimised together with the model's unless the task optimises them itself. ``loss`` may be
    called more than once per step (adversarial weight perturbation does), so state changes belong
    in ``before_attack``, ``observe`` and ``end_epoch``.

    Attributes:
        teacher_logits: whether each batch comes with the eval-mode teacher's logits of its images.
        teacher_state_moves: whether training moves the teacher's buffers, as the running statistics
            of a teacher in training mode; without it the engine refuses a teacher that changed.
        clean_pass_last: whether a step ends with a forward pass of the clean images, in training
            mode at the weights it has found. Nothing but BatchNorm's running statistics follows
            from it: released trainings make it to log the clean accuracy.
        least_batch: how many images each batch must have, an epoch's last one too; 2 where the
            task normalises single numbers over the batch.
        remembers_images: whether it keeps something of each image by ``Batch.index``; the engine
            then refuses generated images.
        autoaugmented_views: how many further views of its images each batch brings in ``others``.
    """

    teacher_logits: ClassVar[bool] = False
    teacher_state_moves: ClassVar[bool] = False
    clean_pass_last: ClassVar[bool] = False
    least_batch: ClassVar[int] = 1
    remembers_images: ClassVar[bool] = False
    autoaugmented_views: int = 0

    def __init__(self, params: Any, context: TaskContext) -> None:
        """Keep the method's validated parameters and the run's context."""
        super().__init__()
        self.params = params
        self.context = context

    def optimised_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the task's parameters that are optimised together with the model's: all."""
        return self.parameters()

    def before_attack(self, batch: Batch, view: LookaheadView) -> None:
        """Called before each attack, with gradients: here a task may train a network of its own.

        The state of its optimiser belongs in ``get_extra_state``.
        """

    def attack_plan(self, batch: Batch, generator: torch.Generator) -> AttackPlan | None:
        """How each image is to be attacked; None attacks all of them as the run's attack says.

        Called once per batch without gradients, before ``attack_objective``.
        """
        return None

    def attack_objective(self, model: Forward, batch: Batch) -> Objective | None:
        """The scalar function of adversarial logits [B, C] that the inner attack maximises.

        None where the method trains without an attack. It is called once per batch without
        gradients, with the model in the attack's mode, so clean logits are computed here, once,
        and closed over.
        """
        return None

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """The training loss of one batch, with the model in training mode."""
        raise NotImplementedError

    def perturbation_loss(self, model: Forward, batch: Batch) -> Tensor:
        """The scalar that adversarial weight perturbation raises: by default the training loss."""
        return self.loss(model, batch).loss

    def observe(self, batch: Batch, output: StepOutput) -> None:
        """Called once per optimiser step with the output of the real forward pass."""

    def end_epoch(self, epoch: int) -> None:
        """Called after the last step of each epoch (counted from 1)."""


Recipe = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        card: what readers are told.
        params: the class of its parameters, with defaults.
        task: makes its task from (params, context).
        recipes: recipe name to a function that returns overrides of the run configuration, nested
            as the configuration is. The recipe named like a data set is that set's default.
        recipe_notes: recipe name to what a reader must know of its row: where paper, logs and
            released code contradict each other, with the evidence.
    """

    card: MethodCard
    params: type[Params]
    task: Callable[[Any, TaskContext], Task]
    recipes: Mapping[str, Recipe]
    recipe_notes: Mapping[str, str] = field(default_factory=dict)
