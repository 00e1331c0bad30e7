"""What a run would refuse, found out without a run."""

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


def check(config: RunConfig, *, fresh: bool = False) -> None:
    """Refuse what ``run`` would refuse before the first step; nothing is trained or stored.

    A teacher that would be trained first is checked likewise, and the student then with an
    untrained one.

    Raises:
        UserError: the run would be refused.
    """
    with TemporaryDirectory() as folder:
        trial = config.model_copy(update={"results": Path(folder)})
        # A run that begins again has nothing of the one that is there.
        _, device, data, generated, _ = runner.opened(trial if fresh else config)
        directory = RunDirectory(config.results, config.run_id)
        check_writable(directory.path)
        if directory.exists:
            with directory.lock():
                pass
        if not fresh:
            runner.check_weights(directory)
            if directory.model_path.exists():
                return
            runner.check_images(directory, data.train)
        if config.teacher is not None:
            # A table would take gigabytes of the disk.
            forward = config.teacher.model_copy(update={"logits": "forward"})
            trial = trial.model_copy(update={"teacher": forward})
        inputs = TrainingInputs(data, generated, trial_teacher(config, data, device, fresh=fresh))
        run = RunDirectory.create(trial.results, trial.run_id)
        trainer = build_trainer(trial, inputs, run, Reporter(quiet=True), device)
        if config.teacher is not None:
            table_possible(config.teacher, trainer.task, trainer.loader)
        validate_training(trial, trainer.model, trainer.task, trainer.loader, lambda _: None)


def trial_teacher(
    config: RunConfig, data: Dataset, device: torch.device, *, fresh: bool
) -> Teacher | None:
    """The run's teacher, or an untrained one where it would be trained first.

    Raises:
        UserError: its training, or the teacher itself, would be refused.
    """
    if config.teacher is None:
        return None
    if needed := missing_teacher(config):
        check(needed)
        return untrained_teacher(config.teacher.arch, data.info, device)
    return prepare_teacher(config, data, Reporter(quiet=True), runner.run, fresh=fresh)


def missing_teacher(config: RunConfig) -> RunConfig | None:
    """The run that trains the teacher first, if that is not done."""
    if config.teacher is None or config.teacher.source != "auto":
        return None
    needed = teacher_run(config)
    trained = RunDirectory(needed.results, needed.run_id).model_path.exists()
    return None if trained else needed


def begin_again(config: RunConfig, reporter: Reporter) -> None:
    """Move a run aside, if there is one and a new one would not be refused.

    Raises:
        UserError: the new run would be refused, or another process works on the run.
    """
    directory = RunDirectory(config.results, config.run_id)
    if directory.path.exists():
        check(config, fresh=True)
        reporter.line(f"the run that was there is kept in {set_aside(directory)}")
