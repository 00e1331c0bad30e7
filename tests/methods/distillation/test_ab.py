"""AB against a case distinction for each value, and its two stages."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step
from tests.methods.losses.transcriptions import batch_norm


def boundaries(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student.flatten(), teacher.flatten().tolist(), strict=True):
        if t > 0 and s <= margin:
            total = total + (s - margin) ** 2
        elif t <= 0 and s > -margin:
            total = total + (s + margin) ** 2
    return total / len(student)


def connected(maps: Tensor, connector: nn.Module) -> Tensor:
    return batch_norm(conv2d(maps, connector.conv.weight, connector.conv.bias), connector.bn)


def test_first_stage_is_the_plain_loss(step: Step) -> None:
    """Each of the three stages has half the weight of the next."""
    step.batch.epoch = 1
    task = step.make_task("ab", boundary_weight=0.7, margin=0.8)
    s, t = step.student.outputs.preacts[1:], step.teacher_features.preacts[1:]
    maps = [connected(*each) for each in zip(s, task.connectors, strict=True)]
    terms = [boundaries(*each, 0.8) for each in zip(maps, t, strict=True)]
    expected = 0.7 * (terms[0] / 4 + terms[1] / 2 + terms[2])
    assert_same_loss(step.loss(task), expected, *step.student.leaves(), task)


def test_stages_of_the_same_shape_have_no_connector(equal_step: Step) -> None:
    step = equal_step
    step.batch.epoch = 1
    task = step.make_task("ab")
    assert not list(task.parameters())
    pairs = zip(step.student.outputs.preacts[1:], step.teacher_features.preacts[1:], strict=True)
    terms = [boundaries(s, t, 1.0) for s, t in pairs]
    expected = 3e-3 * (terms[0] / 4 + terms[1] / 2 + terms[2])
    assert_same_loss(step.loss(task), expected, *step.student.leaves())


def test_labels_alone_follow(step: Step) -> None:
    task = step.make_task("ab", label_weight=0.5)
    for step.batch.epoch in (5, 40):
        expected = 0.5 * cross_entropy(step.student.outputs.logits, step.batch.y)
        assert_same_loss(step.loss(task), expected, *step.student.leaves())
