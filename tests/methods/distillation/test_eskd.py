"""ESKD: a teacher trained for fewer epochs, which is a separate run."""

import pytest
from torch.nn.functional import cross_entropy

from harness.experiment.resolve import resolve, teacher_run
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def test_loss_is_kds(step: Step) -> None:
    s, t, y = step.student.outputs.logits, step.batch.teacher_logits, step.batch.y
    p, q = (t / 4).softmax(1), (s / 4).softmax(1)
    kl = (p * (p.log() - q.log())).sum() / len(y)
    expected = 0.1 * cross_entropy(s, y) + 0.9 * 16 * kl
    assert_same_loss(step.loss(step.make_task("eskd")), expected, *step.student.leaves())


@pytest.mark.parametrize(
    ("recipe", "epochs", "milestones"),
    [("table5/resnet56-resnet20", 80, (50, 60, 70)), ("digits", 5, ())],
)
def test_only_the_teacher_stops_early(
    recipe: str, epochs: int, milestones: tuple[int, ...]
) -> None:
    config, kd = (resolve(name, recipe=recipe) for name in ("eskd", "kd"))
    assert config.training == kd.training
    early, full = teacher_run(config), teacher_run(kd)
    assert early.run_id != full.run_id
    assert (early.training.epochs, early.training.optimizer.milestones) == (epochs, milestones)
    assert early.training.optimizer.lr == full.training.optimizer.lr
    assert (early.method, early.model, early.data) == (full.method, full.model, full.data)
