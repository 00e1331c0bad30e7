"""Check a run's settings, data and teacher without running it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from harness.config import RunConfig
from harness.data.base import Dataset
from harness.experiment import runner
from harness.experiment.resolve import teacher_run
from harness.experiment.teacher import (
    Teacher,
    check_source_settings,
    prepare_teacher,
    table_possible,
    untrained_teacher,
)
from harness.experiment.trainer import TrainingInputs, build_trainer
from harness.progress import Reporter
from harness.store.files import check_writable
from harness.store.removal import set_aside
from harness.store.rundir import RunDirectory
from harness.training.validate import validate_training


def check(config: RunConfig, *, fresh: bool = False, may_wait: bool = False) -> None:
    """Refuse what ``run`` would refuse before the first step; nothing is trained or stored.

    A teacher that would be trained first is checked in the same way; the student is then checked
    with an untrained teacher.

    Args:
        config: the run.
        fresh: whether an existing run would be moved aside.
        may_wait: whether the run would wait for another process that works on it, as a teacher's
            run does.

    Raises:
        UserError: the run would be refused.
    """
    with TemporaryDirectory() as folder:
        trial = config.model_copy(update={"results": Path(folder)})
        # A fresh run uses nothing of the existing one.
        _, device, data, generated, _ = runner.open_run(trial if fresh else config)
        directory = RunDirectory(config.results, config.run_id)
        check_writable(directory.path)
        if directory.exists and not may_wait:
            with directory.lock():
                pass
        if not fresh:
            runner.check_weights(directory)
            if directory.model_path.exists():
                return
            runner.check_images(directory, data.train)
        if config.teacher is not None:
            # A table of logits would take gigabytes of disk space.
            forward = config.teacher.model_copy(update={"logits": "forward"})
            trial = trial.model_copy(update={"teacher": forward})
        inputs = TrainingInputs(
            data, generated, stand_in_teacher(config, data, device, fresh=fresh)
        )
        run = RunDirectory.create(trial.results, trial.run_id)
        trainer = build_trainer(trial, inputs, run, Reporter(quiet=True), device)
        if config.teacher is not None:
            table_possible(config.teacher, trainer.task, trainer.loader)
        validate_training(trial, trainer.model, trainer.task, trainer.loader, lambda _: None)


def stand_in_teacher(
    config: RunConfig, data: Dataset, device: torch.device, *, fresh: bool
) -> Teacher | None:
    """Return the run's teacher, or an untrained one if the run would train it first.

    Raises:
        UserError: the teacher, or its training run, would be refused.
    """
    if config.teacher is None:
        return None
    if needed := missing_teacher(config):
        check_source_settings(config.teacher)
        check(needed, may_wait=True)
        return untrained_teacher(config.teacher.arch, data.info, device)
    return prepare_teacher(config, data, Reporter(quiet=True), runner.run, fresh=fresh)


def missing_teacher(config: RunConfig) -> RunConfig | None:
    """Return the run that must train the teacher first, or None."""
    if config.teacher is None or config.teacher.source != "auto":
        return None
    needed = teacher_run(config)
    trained = RunDirectory(needed.results, needed.run_id).model_path.exists()
    return None if trained else needed


def start_fresh(config: RunConfig, reporter: Reporter) -> None:
    """Move an existing run aside, unless the new run would be refused.

    Raises:
        UserError: the new run would be refused, or another process works on the run.
    """
    directory = RunDirectory(config.results, config.run_id)
    if directory.path.exists():
        check(config, fresh=True)
        reporter.line(f"the previous run is kept in {set_aside(directory)}")
