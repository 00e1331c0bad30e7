"""The training loop: one step, one epoch, one run, resumable after each checkpoint."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data.base import ImageSource
from harness.data.batch import Batch
from harness.data.loader import Loader
from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.distributed.sync_batchnorm import with_sync_batchnorm
from harness.errors import UserError, first_line
from harness.method import Forward, LookaheadStep, StepOutput, Task
from harness.seeding import derive_seed, seeded_generator
from harness.store.rundir import RunDirectory
from harness.training.averaging import WeightAverage
from harness.training.build import training_dtype
from harness.training.checkpoint import load_training, save_training
from harness.training.inner_attack import clipped, pgd, planned_pgd
from harness.training.modes import ReplicaForward, attack_mode, compiled, frozen_parameters
from harness.training.monitor import monitor_accuracy
from harness.training.optimizer import build_optimizer, look_ahead, set_epoch
from harness.training.schedules import InnerSchedule, inner_schedule, perturbation_size
from harness.training.step_timer import StepTimer, peak_memory_mb
from harness.training.tiles import Tiled, images_at_once
from harness.training.validate import NonFiniteGuard, validate_training
from harness.training.weight_perturbation import perturbation, perturbed

# Number of steps at the start of an epoch whose losses are stored in its record.
OPENING_STEPS = 20
# What a checkpoint holds the state of.
PARTS = ("model", "task", "optimizer", "average")


class TrainingReporter(Protocol):
    """Receives the progress of training."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Called after each optimiser step."""

    def line(self, text: str) -> None:
        """Show a message of one line."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Called after each epoch with its record."""


@dataclass
class Selected:
    """The model selected as the run's result, and the epoch of its weights."""

    model: nn.Module
    epoch: int
    sec_per_iter: dict[str, float]


class Trainer:
    """Trains one model with one task, and writes epochs and checkpoints to the run directory."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        model: nn.Module,
        loader: Loader,
        *,
        watched: ImageSource,
        run: RunDirectory,
        device: torch.device,
        test_accuracy: Callable[[nn.Module], tuple[int, int]] | None = None,
        teacher_logits: Callable[[Batch], Tensor] | None = None,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Build optimiser and averages, and resume from the last checkpoint if there is one.

        Args:
            config: the run.
            task: the method's part of a step.
            model: the network to train.
            loader: the training batches.
            watched: the images on which accuracy is monitored and epochs are selected.
            run: where epochs and checkpoints are written, by the first process only.
            device: the training device.
            test_accuracy: returns the number of test images that a model classifies correctly, and
                the number of test images. The accuracy of every epoch is recorded, but never used
                for selection.
            teacher_logits: returns the teacher's logits for a batch.
            processes: the processes that train together.
        """
        self.processes = processes
        self.config, self.training = config, config.training
        self.device, self.run = device, run
        self.dtype = training_dtype(config)
        self.task, self.loader, self.watched = task.to(device, self.dtype), loader, watched
        self.test_accuracy, self.teacher_logits = test_accuracy, teacher_logits
        self.model = model.to(device, self.dtype)
        if processes.count > 1:
            self.model = _split_between(self.model, config, loader, processes)
        if self.training.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.plain = ReplicaForward(self.model, self.training.batchnorm_replicas, processes)
        self.forward: nn.Module = compiled(self.plain) if self.training.compile else self.plain
        self.tiled: Tiled | None = None
        self.optimizer = build_optimizer(
            self.model, self.task.optimised_parameters(), self.training.optimizer, self.task
        )
        self.average = WeightAverage(self.model, self.training.averaging, self.training.epochs)
        self.timer = StepTimer(device)
        self.best: dict[str, Any] | None = None
        self.finished_epochs = self._resume()
        processes.copy_first_(_tensors(self.model, self.task))

    def fit(self, reporter: TrainingReporter) -> Selected:
        """Train up to the last epoch and return the selected model.

        Raises:
            UserError: the task cannot be trained with these batches or settings.
        """
        validate_training(self.config, self.model, self.task, self.loader, reporter.line)
        for epoch in range(self.finished_epochs + 1, self.training.epochs + 1):
            record = self._train_epoch(epoch, reporter)
            self.processes.broadcast(partial(self._end_epoch, record, reporter))
        return self._select()

    def _end_epoch(self, record: dict[str, Any], reporter: TrainingReporter) -> None:
        """Measure the accuracies, and write the record and the checkpoint, in the first process."""
        epoch = record["epoch"]
        record |= self._watch(epoch) | self._test()
        self.run.append_epoch(record)
        last = epoch == self.training.epochs
        if last or epoch % self.training.checkpoint_every == 0:
            self._checkpoint(epoch)
        reporter.epoch(record)

    def _train_epoch(self, epoch: int, reporter: TrainingReporter) -> dict[str, Any]:
        training, attack = self.training, self.training.attack
        rate = set_epoch(self.optimizer, training, epoch)
        schedule = inner_schedule(attack, epoch, training.epochs) if attack else None
        # Makes layers that draw from the global generator (dropout) repeatable after a restart.
        torch.manual_seed(derive_seed(self.config.seed, "global", epoch))
        generator = seeded_generator(self.device, self.config.seed, "attack", epoch)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        sums: dict[str, Tensor] = {}
        opening: list[Tensor] = []
        guard = NonFiniteGuard(self.device, epoch)
        steps, images = self.loader.steps_per_epoch, 0
        started = time.perf_counter()
        for step, batch in enumerate(self.loader.epoch(self.config.seed, epoch), 1):
            with self.timer.step():
                output = self.step(batch, schedule, generator)
            guard.check(step, output.loss)
            images += len(batch.y)
            if step <= OPENING_STEPS:
                opening.append(output.loss.detach())
            for name, value in {"loss": output.loss.detach(), **output.parts}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(batch.y)
            reporter.step(epoch, step, steps)
        guard.check_model(self.model)
        self.task.end_epoch(epoch)
        self.average.after_epoch(epoch)
        means = {name: float(total) / images for name, total in sums.items()}
        return {
            "epoch": epoch,
            "lr": rate,
            "eps": schedule.eps if schedule else None,
            "loss": means.pop("loss"),
            "parts": means,
            "opening_losses": torch.stack(opening).tolist(),
            "sec_per_iter": self.timer.median(last=steps),
            "seconds": time.perf_counter() - started,
            "peak_memory_mb": peak_memory_mb(self.device),
        }

    def step(
        self, batch: Batch, schedule: InnerSchedule | None, generator: torch.Generator
    ) -> StepOutput:
        """Compute teacher logits, attack, perturb weights, update the weights, and restore them."""
        if self.training.channels_last:
            for each in (batch, *batch.others):
                each.x = each.x.contiguous(memory_format=torch.channels_last)
        if self.teacher_logits is not None:
            batch.teacher_output = self.teacher_logits(batch).to(self.dtype)
        for each in (batch, *batch.others):
            each.x = each.x.to(self.dtype)
        if schedule is not None:
            self._attack(batch, schedule, generator)
        self.model.train()
        self.task.train()
        offsets: list[Tensor] = []
        if gamma := perturbation_size(self.training, batch.epoch):
            offsets = perturbation(
                self.model, lambda: self._perturbation_loss(batch), gamma, self.processes
            )
        with perturbed(self.model, offsets):
            output = self._loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            output.loss.backward()
            self.processes.average_(self._gradients())
            self.optimizer.step()
        with torch.no_grad():
            self.task.observe(batch, output)
            if self.task.clean_pass_last:
                with self._precision():
                    self.forward(batch.x)
        self.average.after_step(batch.epoch)
        return output

    def _loss(self, batch: Batch) -> StepOutput:
        with self._precision():
            output = self.task.loss(self.forward, batch)
        if output.loss.ndim:
            raise UserError(
                f"{type(self.task).__name__}.loss returned a loss of shape "
                f"{list(output.loss.shape)}, but it must be a scalar: average it over the images"
            )
        return output

    def _gradients(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            yield from (p.grad for p in group["params"] if p.grad is not None)

    def _perturbation_loss(self, batch: Batch) -> Tensor:
        with self._precision():
            return self.task.perturbation_loss(self.forward, batch)

    def _precision(self, *, cached: bool = True) -> AbstractContextManager[object]:
        """The run's precision; ``cached`` keeps a weight's rounded copy until the context ends."""
        if self.training.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=cached)
        return nullcontext()

    def _attack(self, batch: Batch, schedule: InnerSchedule, generator: torch.Generator) -> None:
        """Set ``batch.plan`` and ``batch.x_adv``, which is clipped to the attack's radius."""
        attack = self.training.attack
        assert attack is not None
        # A task may train its own networks in this context, in place, so a cached copy would become
        # stale. The attack itself loses nothing: frozen weights are never cached.
        with attack_mode(self.model, attack.model_mode), self._precision(cached=False):
            if type(self.task).before_attack is not Task.before_attack:
                self.task.before_attack(batch, self._lookahead(batch.epoch, schedule, generator))
            with torch.no_grad():
                batch.plan = self.task.attack_plan(batch, generator)
            x_adv = self._adversarial(batch, schedule, generator)
            if x_adv is not None:
                batch.x_adv = clipped(x_adv, batch.x, schedule.eps)

    def _lookahead(
        self, epoch: int, schedule: InnerSchedule, generator: torch.Generator
    ) -> LookaheadStep:
        def attack(batch: Batch) -> Tensor:
            x_adv = self._adversarial(batch, schedule, generator)
            if x_adv is None:
                raise RuntimeError("a task without an attack objective has nothing to attack")
            return x_adv

        return LookaheadStep(
            model=self.plain,
            generator=generator,
            rate_factor=self.optimizer.param_groups[0]["lr"] / self.training.optimizer.lr,
            attack=attack,
            look_ahead=partial(look_ahead, self.plain, self.training, epoch),
        )

    def _adversarial(
        self, batch: Batch, schedule: InnerSchedule, generator: torch.Generator
    ) -> Tensor | None:
        """The adversarial images of a batch, or None where the task has no attack objective."""
        attack = self.training.attack
        assert attack is not None
        forward = self._attacked(batch.x)
        with frozen_parameters(self.model):
            with torch.no_grad():
                objective = self.task.attack_objective(forward, batch)
            if objective is None:
                return None
            if batch.plan is None:
                x_adv = pgd(forward, objective, batch.x, schedule, attack, generator)
            else:
                x_adv = planned_pgd(forward, objective, batch.x, batch.plan, attack, generator)
            return self.plain.collected(x_adv)

    def _attacked(self, x: Tensor) -> Forward:
        """The forward pass of the attack: on a CPU in eval mode, in pieces that fit the cache."""
        in_pieces = self.device.type == "cpu" and self.processes.count == 1
        if not in_pieces or self.model.training:
            return self.forward
        if self.tiled is None:
            self.tiled = Tiled(self.forward, images_at_once(self.model, x))
        return self.tiled

    def _watch(self, epoch: int) -> dict[str, Any]:
        """Measure accuracy on the watched images; keep the best weights if selection needs them."""
        selection, monitor = self.training.selection, self.training.monitor
        selecting = selection.rule != "last"
        due = monitor.every and (epoch % monitor.every == 0 or epoch == self.training.epochs)
        if not (selecting or due):
            return {}
        steps = selection.pgd_steps if selecting else monitor.pgd_steps
        # No evaluation setting may affect the selected weights, so the radius is one of training.
        attack = self.training.attack
        accuracy = monitor_accuracy(
            self.average.model,
            self.watched,
            self.device,
            limit=None if selecting else monitor.images,
            eps=selection.eps or (attack.eps if attack else 0.0),
            pgd_steps=steps if attack else 0,
        )
        score = accuracy.get("pgd", accuracy["clean"])
        if selecting and (self.best is None or score > self.best["accuracy"]):
            weights = {k: v.detach().clone() for k, v in self.average.model.state_dict().items()}
            self.best = {"epoch": epoch, "accuracy": score, "weights": weights}
        return {"clean_val": accuracy["clean"], "pgd_val": accuracy.get("pgd")}

    def _test(self) -> dict[str, Any]:
        """Measure clean accuracy on all test images, if the run records it."""
        if self.test_accuracy is None:
            return {}
        model = self.average.model
        if self.dtype != torch.float32:
            model = copy.deepcopy(model).float()  # the precision in which it is saved and evaluated
        correct, count = self.test_accuracy(model)
        return {"clean_test": correct / count}

    def _select(self) -> Selected:
        model, epoch = self.average.model, self.training.epochs
        if self.best is not None:
            model.load_state_dict(self.best["weights"])
            epoch = self.best["epoch"]
        return Selected(model.eval(), epoch, self.timer.summary())

    def _checkpoint(self, epoch: int) -> None:
        save_training(
            self.run.checkpoint_path,
            epoch=epoch,
            **{name: getattr(self, name).state_dict() for name in PARTS},
            best=self.best,
            step_seconds=self.timer.state(),
        )

    def _resume(self) -> int:
        """Load the last checkpoint and return the number of finished epochs."""
        state = self.processes.broadcast(self._last_checkpoint)
        if state is None:
            return 0
        try:
            for name in PARTS:
                getattr(self, name).load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.run.checkpoint_path} does not fit the present code ({first_line(error)}): "
                "train again with `run --fresh` (from Python, delete the file) or restore its code"
            ) from error
        self.best = state["best"]
        self.timer.load_state(state["step_seconds"])
        return int(state["epoch"])

    def _last_checkpoint(self) -> dict[str, Any] | None:
        """Read the last checkpoint and drop the records of later epochs."""
        state = load_training(self.run.checkpoint_path)
        self.run.truncate_epochs(state["epoch"] if state else 0)
        return state


def _tensors(*modules: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _split_between(
    model: nn.Module, config: RunConfig, loader: Loader, processes: ProcessGroup
) -> nn.Module:
    """Prepare the network for several processes, each of which takes parts of every batch.

    Raises:
        UserError: a batch has fewer parts than there are processes.
    """
    replicas, images = config.training.batchnorm_replicas, loader.smallest_batch
    parts = images if replicas == 1 else len(torch.arange(images).chunk(replicas))
    if parts < processes.count:
        raise UserError(
            f"a batch of {images} images has {parts} parts, too few for {processes.count} "
            "processes: start fewer, or see training.batch_size, training.drop_last and "
            "training.batchnorm_replicas"
        )
    return with_sync_batchnorm(model, processes) if replicas == 1 else model
