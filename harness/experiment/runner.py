"""Take a run from its configuration to its stored result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.config import EvalConfig, RunConfig
from harness.data import dataset_info, load_dataset
from harness.data.base import Dataset, ImageSource, OfficialSplit
from harness.data.generated import check_same_file, open_generated
from harness.data.npz import NpzImages
from harness.distributed.group import SINGLE_PROCESS, ProcessGroup
from harness.errors import UserError
from harness.evaluation.analysis.statistics import accuracy
from harness.evaluation.attack.executors import ChunkExecutor, most_workers
from harness.evaluation.attack.model import out_of_memory
from harness.evaluation.attack.protocol import check_protocol
from harness.evaluation.driver import EvaluationResult, evaluate
from harness.experiment.live import LiveProgress
from harness.experiment.record import (
    SEVERAL_VERSIONS,
    header,
    images_root,
    other_code,
    recorded,
    training_header,
)
from harness.experiment.teacher import Teacher, prepare_teacher, unchanged
from harness.experiment.trainer import TrainingInputs, build_trainer
from harness.method import Method
from harness.models.checkpoint import save_model, state_dict_sha256
from harness.models.loading import load_run_model
from harness.progress import Reporter, TrainingProgress
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.store.tracking import tracking
from harness.training.build import choose_device, normalisation
from harness.training.loop import Selected


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        run_id: its name.
        directory: its folder.
        evaluations: one result for each radius, ascending.
    """

    run_id: str
    directory: Path
    evaluations: tuple[EvaluationResult, ...]

    @property
    def evaluation(self) -> EvaluationResult:
        """The evaluation at the largest radius."""
        return self.evaluations[-1]


def run(
    config: RunConfig,
    reporter: Reporter,
    passed: dict[str, Any] | None = None,
    *,
    wait: bool = False,
    index: bool = True,
    processes: ProcessGroup = SINGLE_PROCESS,
    executor: ChunkExecutor | None = None,
) -> Outcome:
    """Train with the configured method, evaluate with the configured protocol, and store both.

    Work that an earlier call finished for the same run is not repeated. A teacher that must be
    trained is a separate run, done first.

    Args:
        config: the configuration of the run.
        reporter: where progress is shown.
        passed: what the user typed, stored with the resolved configuration.
        wait: wait for another process that works on the same run instead of raising.
        index: whether to update the database; False if another process does.
        processes: the processes that train together. This is the first one; the others execute
            ``run_worker``.
        executor: where chunks are attacked; by default ``evaluation.workers`` processes.

    Raises:
        UserError: the configuration or the data cannot be used, or training diverged.
    """
    method, device, data, generated, described = open_run(config)
    # If two students need the same teacher at once, the second waits for the first to train it.
    teach = partial(run, wait=True, index=index, processes=processes, executor=executor)
    teacher = prepare_teacher(config, data, reporter, teach)
    directory = RunDirectory.create(config.results, config.run_id)
    check_weights(directory)
    described |= header(config, method, passed)
    inputs = TrainingInputs(data, generated, teacher, processes)
    with directory.lock(wait=wait):
        if note := other_code(directory, method):
            reporter.line(note)
        if directory.model_path.exists():
            reporter.line(f"{config.run_id} is already trained")
            described.pop("config_passed")  # that of the training stays
        else:
            check_images(directory, data.train)
            described |= training_header(config, method, data, device, processes)
            if note and directory.checkpoint_path.exists():
                described["method_sha256"] = SEVERAL_VERSIONS
            described |= teacher.described if teacher else {}
        with recorded(directory, described, reporter, index=index):
            model = trained_model(config, method, inputs, directory, reporter, device)
            return evaluate_into(
                directory, model, data.test, config.evaluation, reporter, device, executor
            )


Opened = tuple[Method, torch.device, Dataset, NpzImages | None, dict[str, Any]]


def open_run(config: RunConfig) -> Opened:
    """The method, device and images of a run, and its record's fields on generated images.

    Raises:
        UserError: one of them is missing or unsuitable, or the run began with other generated
            images.
    """
    method, device = METHODS.get(config.method), choose_device(config.device)
    generated, described = generated_images(config)
    directory = RunDirectory(config.results, config.run_id)
    splits: tuple[OfficialSplit, ...] = ("train", "test")
    data = load_dataset(
        config.data.name,
        config.data.root,
        config.data.train_limit,
        splits=splits[1:] if directory.model_path.exists() else splits,
    )
    check_protocol(config.evaluation, data.test)
    return method, device, data, generated, described


def run_worker(processes: ProcessGroup) -> None:
    """Take part in each training run of the first process until it is done.

    Both processes must see the same results folder, which holds the teachers.
    """
    reporter = Reporter(quiet=True)
    while (config := processes.receive()) is not None:
        method, device, data, generated, _ = open_run(config)
        teacher = prepare_teacher(config, data, reporter, run)
        inputs = TrainingInputs(data, generated, teacher, processes)
        directory = RunDirectory(config.results, config.run_id)
        train(config, method, inputs, directory, reporter, device)


def generated_images(config: RunConfig) -> tuple[NpzImages | None, dict[str, Any]]:
    """The generated images of a run that is not trained yet, and its record's fields on them.

    Raises:
        UserError: they are missing or unsuitable, or the run began with other ones.
    """
    directory = RunDirectory(config.results, config.run_id)
    if directory.model_path.exists():
        return None, {}
    generated = open_generated(config.data, dataset_info(config.data.name, config.data.root))
    if generated is None:
        return None, {}
    found = generated.fingerprint()
    before = directory.record.get("generated") if directory.exists else None
    check_same_file(before, found, str(generated.path))
    return generated, {"generated": found}


def evaluate_run(
    directory: RunDirectory,
    evaluation: EvalConfig,
    root: Path | None,
    device: str,
    reporter: Reporter,
    executor: ChunkExecutor | None = None,
) -> Outcome:
    """Evaluate the model of a stored run with another protocol, or finish its evaluation."""
    record, where = directory.record, choose_device(device)
    root = images_root(directory, root)
    model = load_run_model(directory)
    data = load_dataset(record["dataset"], root, splits=("test",))
    check_protocol(evaluation, data.test)
    with directory.lock(), recorded(directory, {}, reporter, further=True):
        return evaluate_into(directory, model, data.test, evaluation, reporter, where, executor)


def trained_model(
    config: RunConfig,
    method: Method,
    inputs: TrainingInputs,
    directory: RunDirectory,
    reporter: Reporter,
    device: torch.device,
) -> nn.Module:
    """The run's model, loaded from its file if training is finished, else trained now."""
    if not directory.model_path.exists():
        data = inputs.data
        inputs.processes.send(config)
        selected = train(config, method, inputs, directory, reporter, device)
        # The model is saved last: once its file exists, the run counts as trained.
        directory.update(
            selection=config.training.selection.rule,
            selected_epoch=selected.epoch,
            metrics=training_metrics(selected, directory, len(data.test), inputs.teacher),
            # An imported record has the checksum of weights that are not here.
            model_sha256=None,
        )
        save_model(
            directory.model_path,
            selected.model,
            arch=config.model.arch,
            num_classes=data.info.num_classes,
            in_channels=data.info.channels,
            image_size=data.info.image_size,
            normalize=normalisation(config, data.info),
            dataset=data.info.name,
            method=config.method,
            epoch=selected.epoch,
        )
    model = load_run_model(directory)
    if directory.record.get("model_sha256") is None:
        directory.update(model_sha256=state_dict_sha256(model))
    return model


def train(
    config: RunConfig,
    method: Method,
    inputs: TrainingInputs,
    directory: RunDirectory,
    reporter: Reporter,
    device: torch.device,
) -> Selected:
    """Train the configured network with the method's task.

    Raises:
        UserError: training diverged, or ran out of memory.
    """
    for note in inputs.data.train.notes:
        reporter.line(note)
    with enough_memory(config, device):
        trainer = build_trainer(config, inputs, directory, reporter, device)
        epochs, steps = config.training.epochs, trainer.loader.steps_per_epoch
        title = f"train {method.card.title}"
        watch = LiveProgress(directory, "training") if inputs.processes.first else None
        stage_of = reporter.stage(title, epochs * steps, watch)
        tracked = tracking(config.track if inputs.processes.first else (), directory)
        with unchanged(inputs.teacher, trainer.task), tracked as track, stage_of as stage:
            stage.start_at(trainer.finished_epochs * steps)
            return trainer.fit(TrainingProgress(reporter, stage, epochs, track))


@contextmanager
def enough_memory(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Raise a UserError if memory runs out inside."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"the training of {config.run_id} ran out of memory on {device}: set a smaller "
            "training.batch_size or training.precision=bf16, or divide its batches between GPUs "
            "with torchrun"
        ) from error


def training_metrics(
    selected: Selected, directory: RunDirectory, test_size: int, teacher: Teacher | None
) -> dict[str, dict[str, float]]:
    """The metrics of the training: its time, peak memory, and teacher and test accuracies.

    They cover all epochs, including those before a restart.
    """
    epochs = directory.epochs()
    metrics = {
        "sec_per_iter": selected.sec_per_iter,
        "train_seconds": {"value": sum(record["seconds"] for record in epochs)},
    }
    peaks = [record["peak_memory_mb"] for record in epochs if record["peak_memory_mb"] is not None]
    metrics |= {"peak_memory_mb": {"value": max(peaks)}} if peaks else {}
    metrics |= {"teacher_clean": teacher.facts["accuracy"]} if teacher else {}
    return metrics | tracked_metrics(epochs, test_size)


def tracked_metrics(epochs: list[dict[str, Any]], test_size: int) -> dict[str, dict[str, float]]:
    """The two accuracies that the literature reports when test accuracy is tracked in training.

    ``clean_last`` is the last epoch's accuracy. ``clean_best`` is that of the epoch with the best
    test accuracy, the first in a tie, given by ``clean_best_epoch``: it is selected on the very
    images that it measures.
    """
    tracked = {e["epoch"]: e["clean_test"] for e in epochs if e.get("clean_test") is not None}
    if not tracked or len(tracked) < len(epochs):
        return {}  # not tracked, or only since a restart

    def estimate(epoch: int) -> dict[str, float]:
        return accuracy(round(tracked[epoch] * test_size), test_size)

    best = max(tracked, key=lambda epoch: (tracked[epoch], -epoch))
    return {
        "clean_last": estimate(max(tracked)),
        "clean_best": estimate(best),
        "clean_best_epoch": {"value": best},
    }


def evaluate_into(
    directory: RunDirectory,
    model: nn.Module,
    images: ImageSource,
    config: EvalConfig,
    reporter: Reporter,
    device: torch.device,
    executor: ChunkExecutor | None,
    *,
    foreign: bool = False,
) -> Outcome:
    """Evaluate into the run's directory, with progress; see ``driver.evaluate``."""
    for note in images.notes:
        reporter.line(note)
    if executor is None and config.workers > most_workers():
        reporter.line(f"{config.workers} workers requested, {most_workers()} used: one per core")
    with reporter.stage("evaluate", watch=LiveProgress(directory, "evaluation")) as stage:
        found = evaluate(
            model,
            images,
            config,
            directory,
            device=device,
            executor=executor,
            progress=stage.update,
            notify=reporter.line,
            foreign=foreign,
        )
    return Outcome(directory.run_id, directory.path, found)


def check_images(directory: RunDirectory, images: ImageSource) -> None:
    """Check that a training run continues on the images that it began with.

    Raises:
        UserError: it began with others.
    """
    begun = directory.checkpoint_path.exists() and directory.exists
    before = directory.record.get("train_sha256") if begun else None
    if before not in (None, images.sha256):
        raise UserError(
            f"run {directory.run_id} began with other training images of {images.info.name} "
            f"(hash {before[:12]}, here {images.sha256[:12]}): give the --data-root that it began "
            f"with, or remove {directory.path} to train again"
        )


def check_weights(directory: RunDirectory) -> None:
    """Raise a UserError if a run has finished evaluations, but its weights are missing."""
    if directory.finished_evaluations():
        _ = directory.trained_model
