"""The interface of a method: its card, parameters, training task and recipes.

A method is one file that defines ``METHOD = Method(...)``. The engine does not depend on which
method it runs; it only calls the task for an attack objective and a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.config import Strict
from harness.data.batch import AttackPlan as AttackPlan
from harness.data.batch import Batch as Batch

Forward = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor], Tensor]
ModelLoss = Callable[[Forward], Tensor]


class Params(Strict):
    """Base class of a method's parameters; instances are frozen, unknown names are errors."""


@dataclass(frozen=True)
class MethodCard:
    """The description of a method for readers.

    Attributes:
        title: the name as papers print it.
        family: the kind of training.
        summary: the idea in one sentence.
        formula: the training loss in LaTeX, with the parameters named as here.
        paper: authors, title, venue, year.
        url: link to the paper.
        tables: tables of the reference paper that have a row for the method.
        notes: differences between released code and paper, and the choice made here.
        bibtex: the entry to cite.
        needs_teacher: whether the method needs a trained teacher network.
        released_names: name of a parameter here to its name in the authors' released code.
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


@dataclass
class StepOutput:
    """What a task's loss returns.

    Attributes:
        loss: scalar to minimise.
        parts: named scalar terms of the loss, for the log.
        extras: detached tensors that ``observe`` needs (for example clean logits).
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskContext:
    """What the engine passes to a task at construction.

    Attributes:
        num_classes: C.
        epochs: number of training epochs.
        device: the training device.
        teacher: the trained teacher, on the device, in eval mode, without gradients; it takes
            images in [0, 1]. It belongs to the engine, which refuses a task that registers it as a
            submodule: it would be written into every checkpoint.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.
        student: the network being trained, for its shapes and layers; ``Task.loss`` gets its
            forward. A task must not register it as a submodule either.
        train_labels: labels [N] of the training set, in the order of ``Batch.index``.
        cycle_ends: the last epoch of each learning-rate cycle.
    """

    num_classes: int
    epochs: int
    device: torch.device
    teacher: nn.Module | None = None
    in_channels: int = 3
    image_size: int = 32
    student: nn.Module | None = None
    train_labels: Tensor | None = None
    cycle_ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class LookaheadStep:
    """What a task can try out before a step, without changing the network being trained.

    Attributes:
        model: the network being trained, in the attack's mode.
        generator: the step's random generator, on the device; the same after a restart.
        rate_factor: the epoch's learning rate divided by the base rate.
        attack: returns the adversarial images for a batch and its plan, not yet clipped to the
            run's radius; ``RuntimeError`` if the task has no attack objective.
        look_ahead: takes a training loss and a perturbation loss, as functions of the network's
            forward, and returns a copy of the network after one optimiser step, in training mode;
            see ``harness.training.optimizer``.
    """

    model: nn.Module
    generator: torch.Generator
    rate_factor: float
    attack: Callable[[Batch], Tensor]
    look_ahead: Callable[[ModelLoss, ModelLoss], nn.Module]


class Task(nn.Module):
    """A method's part of a training step.

    The task's buffers and parameters belong to the run: they are checkpointed, and parameters are
    optimised together with the model's unless the task optimises them itself. ``loss`` may be
    called more than once per step (adversarial weight perturbation does), so state changes belong
    in ``before_attack``, ``observe`` and ``end_epoch``.

    Attributes:
        needs_teacher_logits: whether each batch comes with the logits of the teacher in eval mode.
        teacher_state_moves: whether training changes the teacher's buffers, such as the running
            statistics of a teacher in training mode; otherwise the engine refuses a changed
            teacher.
        clean_pass_last: whether a step ends with a forward pass of the clean images, in training
            mode with the updated weights. It affects only BatchNorm's running statistics; released
            training code makes this pass to log the clean accuracy.
        least_batch: the smallest allowed batch size, also for the last batch of an epoch; 2 if
            the loss needs pairs of images or normalises one number per image over the batch.
        remembers_images: whether the task keeps state for each image by ``Batch.index``; the
            engine then refuses generated images.
        autoaugmented_views: number of further views of its images that each batch has in
            ``others``.
    """

    needs_teacher_logits: ClassVar[bool] = False
    teacher_state_moves: ClassVar[bool] = False
    clean_pass_last: ClassVar[bool] = False
    least_batch: ClassVar[int] = 1
    remembers_images: ClassVar[bool] = False
    autoaugmented_views: int = 0

    def __init__(self, params: Any, context: TaskContext) -> None:
        """Store the method's validated parameters and the run's context."""
        super().__init__()
        self.params = params
        self.context = context

    def optimised_parameters(self) -> Iterable[nn.Parameter]:
        """The task's parameters that are optimised together with the model's; by default all."""
        return self.parameters()

    def before_attack(self, batch: Batch, view: LookaheadStep) -> None:
        """Called before each attack, with gradients; a task can train its own network here.

        The state of that network's optimiser belongs in ``get_extra_state``.
        """

    def attack_plan(self, batch: Batch, generator: torch.Generator) -> AttackPlan | None:
        """The attack on each image, or None to attack all of them with the run's settings.

        Called once per batch without gradients, before ``attack_objective``.
        """
        return None

    def attack_objective(self, model: Forward, batch: Batch) -> Objective | None:
        """The scalar function of adversarial logits [B, C] that the inner attack maximises.

        None if the method trains without an attack. Called once per batch without gradients, with
        the model in the attack's mode: clean logits can be computed here once and captured by the
        returned function.
        """
        return None

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """The training loss of one batch, with the model in training mode."""
        raise NotImplementedError

    def perturbation_loss(self, model: Forward, batch: Batch) -> Tensor:
        """The scalar that weight perturbation maximises; by default the training loss."""
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
        card: its description.
        params: the class of its parameters, with defaults.
        task: builds its task from (params, context).
        recipes: recipe name to a function that returns overrides of the run configuration, nested
            like it. The recipe named after a dataset is that dataset's default.
        recipe_notes: recipe name to a note on its row: where paper, logs and released code
            contradict each other, with the evidence.
    """

    card: MethodCard
    params: type[Params]
    task: Callable[[Any, TaskContext], Task]
    recipes: Mapping[str, Recipe]
    recipe_notes: Mapping[str, str] = field(default_factory=dict)
