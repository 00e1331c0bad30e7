"""The training loop: one step, one epoch, one run, resumable after each checkpoint."""

from __future__ import annotations

import copy
import resource
import sys
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
from harness.data.loader import Loader
from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.distributed.sync_batchnorm import with_whole_batches
from harness.errors import UserError
from harness.evaluation.clean import clean_accuracy
from harness.method import Batch, Forward, StepOutput, Task
from harness.seeding import derive_seed, seeded_generator
from harness.store.rundir import RunDirectory
from harness.training.averaging import WeightAverage
from harness.training.build import training_dtype
from harness.training.checkpoint import load_training, save_training
from harness.training.inner_attack import clipped, follow, pgd
from harness.training.lookahead import LookaheadStep
from harness.training.modes import ReplicaForward, attack_mode, compiled, frozen_parameters
from harness.training.monitor import monitor_accuracy
from harness.training.non_finite import NonFiniteGuard
from harness.training.optimizer import build_optimizer
from harness.training.schedules import InnerSchedule, inner_schedule, learning_rate, momentum
from harness.training.step_timer import StepTimer
from harness.training.tiles import Tiled, images_at_once
from harness.training.validate import validate_training
from harness.training.weight_perturbation import perturbation, perturbed

# Losses of single steps that an epoch's record keeps.
OPENING_STEPS = 20


class TrainingReporter(Protocol):
    """Where the loop tells how far it is."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """After each optimiser step."""

    def line(self, text: str) -> None:
        """One line of news."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After each epoch, with its record."""


@dataclass
class Selected:
    """The model that is the run's result, and the epoch whose weights it holds."""

    model: nn.Module
    epoch: int
    sec_per_iter: dict[str, float]


class Trainer:
    """Trains one model by one task and keeps the run directory true to it."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        model: nn.Module,
        loader: Loader,
        *,
        watched: ImageSource,
        run: RunDirectory,
        reporter: TrainingReporter,
        device: torch.device,
        tracked: ImageSource | None = None,
        teach: Callable[[Batch], Tensor] | None = None,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Build optimiser and averages, and take up the last checkpoint if there is one.

        ``watched`` are the images for the per-epoch accuracies and for selection; of ``tracked``
        every epoch's clean accuracy is recorded, and nothing chosen by it. ``teach`` gives a
        batch's teacher logits. Of several ``processes`` only the first reads and writes the run.
        """
        self.processes = processes
        self.config, self.training = config, config.training
        self.device, self.run, self.reporter = device, run, reporter
        self.dtype = training_dtype(config)
        self.task, self.loader, self.watched = task.to(device, self.dtype), loader, watched
        self.tracked, self.teach = tracked, teach
        self.model = model.to(device, self.dtype)
        if processes.count > 1:
            self.model = _shared_out(self.model, config, loader, processes)
        if self.training.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.plain = ReplicaForward(self.model, self.training.batchnorm_replicas, processes)
        self.forward: nn.Module = compiled(self.plain) if self.training.compile else self.plain
        self.tiled: Tiled | None = None
        self.optimizer = build_optimizer(
            self.model, self.task.optimised_parameters(), self.training.optimizer
        )
        self.average = WeightAverage(self.model, self.training.averaging, self.training.epochs)
        self.timer = StepTimer(device)
        self.best: dict[str, Any] | None = None
        self.finished_epochs = self._resume()
        processes.copy_first_(_tensors(self.model, self.task))

    def fit(self) -> Selected:
        """Train to the last epoch and return the selected model.

        Raises:
            UserError: the batches or the settings are none that the task can be trained on.
        """
        validate_training(self.config, self.task, self.loader, self.reporter.line)
        for epoch in range(self.finished_epochs + 1, self.training.epochs + 1):
            record = self._train_epoch(epoch)
            self.processes.broadcast(partial(self._close, record))
        return self._select()

    def _close(self, record: dict[str, Any]) -> None:
        """An epoch's accuracies, record and checkpoint, which the first process sees to."""
        epoch = record["epoch"]
        record |= self._watch(epoch) | self._track()
        self.run.append_epoch(record)
        last = epoch == self.training.epochs
        if last or epoch % self.training.checkpoint_every == 0:
            self._checkpoint(epoch)
        self.reporter.epoch(record)

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        training, attack = self.training, self.training.attack
        rate = learning_rate(training.optimizer, epoch, training.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            group["momentum"] = momentum(training.optimizer, epoch, training.epochs)
        schedule = inner_schedule(attack, epoch, training.epochs) if attack else None
        # Layers that draw from the global generator (dropout) must draw alike after a restart.
        torch.manual_seed(derive_seed(self.config.seed, "global", epoch))
        generator = seeded_generator(self.device, self.config.seed, "attack", epoch)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        sums: dict[str, Tensor] = {}
        opening: list[Tensor] = []
        watch = NonFiniteGuard(self.device, epoch)
        steps, images = self.loader.steps_per_epoch, 0
        started = time.perf_counter()
        for step, batch in enumerate(self.loader.epoch(self.config.seed, epoch), 1):
            with self.timer.step():
                output = self.step(batch, schedule, generator)
            watch.see(step, output.loss)
            images += len(batch.y)
            if step <= OPENING_STEPS:
                opening.append(output.loss.detach())
            for name, value in {"loss": output.loss.detach(), **output.parts}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(batch.y)
            self.reporter.step(epoch, step, steps)
        watch.check_now(self.model)
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
            "peak_memory_mb": self._peak_memory_mb(),
        }

    def step(
        self, batch: Batch, schedule: InnerSchedule | None, generator: torch.Generator
    ) -> StepOutput:
        """Ask the teacher, attack, perturb the weights, descend, restore."""
        if self.training.channels_last:
            for each in (batch, *batch.others):
                each.x = each.x.contiguous(memory_format=torch.channels_last)
        if self.teach is not None:
            batch.teacher_logits = self.teach(batch).to(self.dtype)
        for each in (batch, *batch.others):
            each.x = each.x.to(self.dtype)
        if schedule is not None:
            self._attack(batch, schedule, generator)
        self.model.train()
        self.task.train()
        offsets: list[Tensor] = []
        gamma = self._gamma(batch.epoch)
        if gamma:
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
            return self.task.loss(self.forward, batch)

    def _gradients(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            yield from (p.grad for p in group["params"] if p.grad is not None)

    def _perturbation_loss(self, batch: Batch) -> Tensor:
        with self._precision():
            return self.task.perturbation_loss(self.forward, batch)

    def _precision(self, *, cached: bool = True) -> AbstractContextManager[object]:
        """The run's arithmetic; ``cached`` keeps a weight's rounded copy until the context ends."""
        if self.training.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=cached)
        return nullcontext()

    def _gamma(self, epoch: int) -> float:
        config = self.training.weight_perturbation
        return config.gamma if epoch >= config.start_epoch else 0.0

    def _attack(self, batch: Batch, schedule: InnerSchedule, generator: torch.Generator) -> None:
        """Let the task look and propose, then attack; what is found is held to the radius."""
        attack = self.training.attack
        assert attack is not None
        (group, *_) = self.optimizer.param_groups
        view = LookaheadStep(
            forward=self.plain,
            attacked=lambda tried: self._found(tried, schedule, generator),
            optimizer=self.training.optimizer,
            rate=group["lr"],
            momentum=group["momentum"],
            gamma=self._gamma(batch.epoch),
            generator=generator,
        )
        # Networks that a task trains in here change in place: a cached copy would outlive the step.
        # The frozen weights of the attack have no copies to lose.
        with attack_mode(self.model, attack.model_mode), self._precision(cached=False):
            self.task.before_attack(batch, view)
            with torch.no_grad():
                batch.plan = self.task.attack_plan(batch, generator)
            found = self._found(batch, schedule, generator)
            if found is not None:
                batch.x_adv = clipped(found, batch.x, schedule.eps)

    def _found(
        self, batch: Batch, schedule: InnerSchedule, generator: torch.Generator
    ) -> Tensor | None:
        """What the attack finds for a batch, or None where the task names no objective."""
        attack = self.training.attack
        assert attack is not None
        forward = self._attacked(batch.x)
        with frozen_parameters(self.model):
            with torch.no_grad():
                objective = self.task.attack_objective(forward, batch)
            if objective is None:
                return None
            if batch.plan is None:
                found = pgd(forward, objective, batch.x, schedule, attack, generator)
            else:
                found = follow(forward, objective, batch.x, batch.plan, attack, generator)
            return self.plain.collected(found)

    def _attacked(self, x: Tensor) -> Forward:
        """The network as the attack runs it: on a CPU, in pieces where no image sees another."""
        in_pieces = self.device.type == "cpu" and self.processes.count == 1
        if not in_pieces or self.model.training:
            return self.forward
        if self.tiled is None:
            self.tiled = Tiled(self.forward, images_at_once(self.model, x))
        return self.tiled

    def _watch(self, epoch: int) -> dict[str, Any]:
        """Accuracies on the watched images; remembers the best epoch if selection asks for it."""
        selection, monitor = self.training.selection, self.training.monitor
        selecting = selection.rule != "last"
        due = monitor.every and (epoch % monitor.every == 0 or epoch == self.training.epochs)
        if not (selecting or due):
            return {}
        steps = selection.pgd_steps if selecting else monitor.pgd_steps
        if self.training.attack is None:
            steps = 0
        eps = self.config.evaluation.protocols()[-1].eps
        accuracy = monitor_accuracy(
            self.average.model,
            self.watched,
            self.device,
            limit=None if selecting else monitor.images,
            eps=eps,
            pgd_steps=steps,
        )
        score = accuracy.get("pgd", accuracy["clean"])
        if selecting and (self.best is None or score > self.best["accuracy"]):
            weights = {k: v.detach().clone() for k, v in self.average.model.state_dict().items()}
            self.best = {"epoch": epoch, "accuracy": score, "weights": weights}
        return {"clean_val": accuracy["clean"], "pgd_val": accuracy.get("pgd")}

    def _track(self) -> dict[str, Any]:
        """Clean accuracy on the tracked images, whole and unselected."""
        if self.tracked is None:
            return {}
        model = self.average.model
        if self.dtype != torch.float32:
            model = copy.deepcopy(model).float()  # as it will be saved and evaluated
        right, count = clean_accuracy(model, self.tracked, self.device)
        return {"clean_test": right / count}

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
            model=self.model.state_dict(),
            task=self.task.state_dict(),
            optimizer=self.optimizer.state_dict(),
            average=self.average.state_dict(),
            best=self.best,
            step_seconds=self.timer.state(),
        )

    def _resume(self) -> int:
        """Take up the last checkpoint; the number of epochs it has finished."""
        state = self.processes.broadcast(self._last_checkpoint)
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.task.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.best = state["best"]
        self.timer.load_state(state["step_seconds"])
        return int(state["epoch"])

    def _last_checkpoint(self) -> dict[str, Any] | None:
        """Read it, and drop the records of epochs that ended after it."""
        state = load_training(self.run.checkpoint_path)
        self.run.truncate_epochs(state["epoch"] if state else 0)
        return state

    def _peak_memory_mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return peak_resident_bytes() / 2**20


def _tensors(*modules: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _shared_out(
    model: nn.Module, config: RunConfig, loader: Loader, processes: ProcessGroup
) -> nn.Module:
    """The network as several processes train it on parts of each batch.

    Raises:
        UserError: a batch has too few parts or images for them.
    """
    replicas, images = config.training.batchnorm_replicas, loader.smallest_batch
    parts = images if replicas == 1 else len(torch.arange(images).chunk(replicas))
    if parts < processes.count:
        raise UserError(
            f"a batch of {images} images has {parts} parts, too few for {processes.count} "
            "processes: start fewer, or see training.batch_size, training.drop_last and "
            "training.batchnorm_replicas"
        )
    return with_whole_batches(model, processes) if replicas == 1 else model


def peak_resident_bytes() -> int:
    """The most memory this process has held so far; it never falls from epoch to epoch."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
