"""BAN: generations of one network as separate runs."""

from pathlib import Path

import pytest
from distilling import TINY, trained
from torch.nn.functional import cross_entropy

from harness.experiment.resolve import resolve, teacher_run
from harness.store.rundir import RunDirectory
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step

BRIEF = {"training.epochs": 1, "data.train_limit": 96}
CHAIN = {f"teacher.config.{name}": value for name, value in BRIEF.items()}
CHAIN |= {f"teacher.config.teacher.config.{name}": value for name, value in BRIEF.items()}


def test_labels_and_teacher_count_alike_without_a_temperature(step: Step) -> None:
    s, t, y = step.student.outputs.logits, step.batch.teacher_logits, step.batch.y
    p, q = t.softmax(1), s.softmax(1)
    expected = cross_entropy(s, y) + (p * (p.log() - q.log())).sum() / len(y)
    assert_same_loss(step.loss(step.make_task("ban")), expected, *step.student.leaves())


@pytest.mark.parametrize("recipe", ["digits", "cifar100", "table7/resnet50-mobilenet-v2"])
def test_three_generations_have_one_network(recipe: str) -> None:
    last = resolve("ban", recipe=recipe)
    middle = teacher_run(last)
    first = teacher_run(middle)
    assert [run.method for run in (last, middle, first)] == ["ban", "ban", "vanilla"]
    assert len({run.model.arch for run in (last, middle, first)}) == 1
    assert last.params == middle.params
    assert last.training.epochs == middle.training.epochs == first.training.epochs
    assert len({run.run_id for run in (last, middle, first)}) == 3


def test_the_first_generation_is_the_tables_student() -> None:
    first = teacher_run(teacher_run(resolve("ban", recipe="table5/resnet56-resnet20")))
    assert first.run_id == resolve("vanilla", recipe="table5/resnet20").run_id


def test_generations_are_made_one_after_another_and_kept(tmp_path: Path) -> None:
    trained(tmp_path, "ban", **CHAIN)
    config = resolve("ban", options={**TINY, "results": tmp_path, **CHAIN})
    runs = [config, middle := teacher_run(config), teacher_run(middle)]
    assert all(RunDirectory(tmp_path, run.run_id).model_path.exists() for run in runs)
    assert len(list((tmp_path / "runs").iterdir())) == 3
