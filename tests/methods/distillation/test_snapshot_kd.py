"""Snapshot distillation: its loss, its copy of the model, and runs that stop between cycles."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distilling import Lines, assert_same_weights, trained
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.method import Task
from harness.registry import METHODS
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step

CYCLES = {"training.epochs": 4, "training.optimizer.cycles": 2}


@pytest.fixture
def task(step: Step) -> Task:
    """A task with two cycles of 20 epochs."""
    context = replace(step.make_task("kd").context, cycle_ends=(20, 40))
    method = METHODS.get("snapshot-kd")
    params = method.params(label_weight=0.5, kd_weight=3.0, temperature=2.5)
    return method.task(params, context).double()


def plain(step: Step, teacher: Tensor) -> Tensor:
    """The loss; only the teacher's logits are softened by the temperature."""
    s = step.student.outputs.logits
    p, q = (teacher / 2.5).softmax(1), s.softmax(1)
    kl = sum(a * (a.log() - b.log()) for a, b in zip(p.flatten(), q.flatten(), strict=True)) / len(
        p
    )
    return 0.5 * cross_entropy(s, step.batch.y) + 3.0 * kl


def test_the_copy_of_the_cycles_last_epoch_teaches(step: Step, task: Task) -> None:
    """The copy stays in eval mode in any mode of the task, and ignores later weight changes."""
    student = task.context.student
    assert student is not None
    for epoch in range(1, 21):
        step.batch.epoch = epoch
        expected = 0.5 * cross_entropy(step.student.outputs.logits, step.batch.y)
        assert_same_loss(step.loss(task), expected, *step.student.leaves())
        with torch.no_grad():
            student.fc.bias += epoch
        task.end_epoch(epoch)
    with torch.no_grad():
        taught = student.eval()(step.batch.x)
        student.fc.bias += 5
    student.train()
    for step.batch.epoch in (21, 40):
        assert_same_loss(step.loss(task.train()), plain(step, taught), *step.student.leaves())
        task.end_epoch(step.batch.epoch - 1)


def test_the_copy_is_kept_but_not_trained(task: Task) -> None:
    assert not list(task.optimised_parameters())
    assert not any(parameter.requires_grad for parameter in task.parameters())
    assert any(name.startswith("snapshot.") for name in task.state_dict())


@pytest.mark.parametrize("stop", ["epoch 2/", pytest.param("epoch 3/", marks=pytest.mark.slow)])
def test_a_run_that_stops_after_a_copy_ends_with_the_same_weights(
    tmp_path: Path, stop: str
) -> None:
    whole = trained(tmp_path / "whole", "snapshot-kd", **CYCLES)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", "snapshot-kd", Lines(stop), **CYCLES)
    assert_same_weights(whole, trained(tmp_path / "stopped", "snapshot-kd", **CYCLES))
    parts = [set(record["parts"]) for record in whole.epochs()]
    assert parts == [{"ce"}, {"ce"}, {"ce", "kl"}, {"ce", "kl"}]


def test_one_cycle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set training\.optimizer\.cycles"):
        trained(tmp_path, "snapshot-kd", **{"training.optimizer.cycles": 1})


def test_recipe_of_a_pair_has_four_cycles_and_no_teacher() -> None:
    config = resolve("snapshot-kd", recipe="table5/resnet56-resnet20")
    optimizer = config.training.optimizer
    assert (config.teacher, config.model.arch) == (None, "resnet20")
    assert (optimizer.schedule, optimizer.cycles, optimizer.milestones) == ("cosine", 4, ())
