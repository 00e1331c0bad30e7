"""DML: its loss, both students' gradients, and the other student's images."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.experiment.resolve import resolve
from harness.method import TaskContext
from harness.models import build_model
from harness.models.normalize import Normalized
from harness.registry import METHODS
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step

PARAMS = {"peer_arch": "resnet8", "label_weight": 0.5, "mutual_weight": 3.0}


def kl(t: Tensor, s: Tensor) -> Tensor:
    p, q = t.detach().softmax(1), s.softmax(1)
    return (p * (p.log() - q.log())).sum() / len(p)


def test_loss_is_the_plain_one_of_both(step: Step) -> None:
    task = step.make_task("dml", **PARAMS)
    s, p, y = step.student.outputs.logits, task.peer(step.batch.x), step.batch.y
    labels = cross_entropy(s, y) + cross_entropy(p, y)
    expected = 0.5 * labels + 3.0 * (kl(p, s) + kl(s, p))
    assert_same_loss(step.loss(task), expected, *step.student.leaves(), task)


def test_each_student_learns_as_if_the_other_were_a_teacher(step: Step) -> None:
    """The other student's loss has no gradient for it."""
    task = step.make_task("dml", **PARAMS)
    s, y = step.student.outputs.logits, step.batch.y
    alone = 0.5 * cross_entropy(s, y) + 3.0 * kl(task.peer(step.batch.x), s)
    gradients = [torch.autograd.grad(loss, s)[0] for loss in (step.loss(task), alone)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("normalised", [True, False])
def test_both_students_get_the_same_images(normalised: bool) -> None:
    student = build_model("resnet8", 7, 3, 8)
    model = Normalized(student, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)) if normalised else student
    context = TaskContext(7, 4, torch.device("cpu"), image_size=8, student=model)
    method = METHODS.get("dml")
    peer = method.task(method.params(**PARAMS), context).peer
    bare = peer.model if normalised else peer
    bare.load_state_dict(student.state_dict())
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(peer.eval()(x), model.eval()(x))


def test_a_pairs_recipe_has_its_teacher_as_the_other_student() -> None:
    config = resolve("dml", recipe="table7/vgg13-mobilenet-v2")
    assert (config.model.arch, config.params["peer_arch"]) == ("mobilenet-v2", "vgg13")
    assert config.teacher is None
