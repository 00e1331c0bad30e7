"""FSP against loops over pairs of channels, and its two stages."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def halved(maps: Tensor, side: int) -> Tensor:
    """Average the maps over squares, ``side`` squares to a side."""
    cell = maps.shape[-1] // side
    return maps.unfold(2, cell, cell).unfold(3, cell, cell).mean((4, 5))


def flow(before: Tensor, after: Tensor) -> Tensor:
    """Products of channels, averaged over positions; ``before`` is never the smaller map."""
    before = halved(before, after.shape[-1])
    rows = [torch.stack([(a * b).mean((1, 2)) for b in before.unbind(1)]) for a in after.unbind(1)]
    return torch.stack(rows).permute(2, 0, 1)


def test_first_stage_is_the_plain_loss_of_flows(equal_step: Step) -> None:
    step = equal_step
    step.batch.epoch = 4
    s, t = step.student.outputs.stages, step.teacher_features.stages
    flows = [(flow(s[i], s[i + 1]), flow(t[i], t[i + 1])) for i in range(3)]
    expected = sum(((one - other) ** 2).sum() / one.numel() for one, other in flows)
    assert_same_loss(step.loss(step.make_task("fsp")), expected, *step.student.leaves())


def test_labels_alone_follow_the_first_ninth_of_the_epochs(equal_step: Step) -> None:
    """The first stage is four of 40 epochs."""
    step = equal_step
    task = step.make_task("fsp", label_weight=0.5)
    for step.batch.epoch in (5, 40):
        expected = 0.5 * cross_entropy(step.student.outputs.logits, step.batch.y)
        assert_same_loss(step.loss(task), expected, *step.student.leaves())


def test_other_channels_are_refused(step: Step) -> None:
    with pytest.raises(UserError, match=r"have \(4, 5, 6, 7\) and the teacher's \(6, 8, 12, 20\)"):
        step.make_task("fsp")


def test_two_stages_need_two_epochs(equal_step: Step) -> None:
    params = equal_step.make_task("fsp").params
    assert [params.in_first_stage(epoch, 2) for epoch in (1, 2)] == [True, False]
    assert [params.in_first_stage(epoch, 270) for epoch in (30, 31)] == [True, False]
    with pytest.raises(UserError, match="epochs to 2 or more"):
        params.in_first_stage(1, 1)
