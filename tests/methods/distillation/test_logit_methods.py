"""kd, dkd and the decoupled divergences against float64 transcriptions of released losses."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

from harness.models.features import Features
from harness.registry import METHODS
from tests.methods.conftest import assert_same_loss, gradients
from tests.methods.distillation.conftest import NUM_CLASSES, Step
from tests.methods.losses.transcriptions import pairwise_mse

DECOUPLED = ("dkl-kd", "ikl-kd", "gkl-kd")
# Distinct values, so that a swap of any two is detected.
PARAMS = {"label_weight": 0.7, "wmse_weight": 5.0, "ce_weight": 3.0, "temperature": 2.5}


def released(method: str, params: dict[str, Any]) -> dict[str, Any]:
    names = METHODS.get(method).card.released_names
    return {names[ours]: value for ours, value in params.items() if ours in names}


def mean_kl(t: Tensor, s: Tensor) -> Tensor:
    p, q = softmax(t, 1), softmax(s, 1)
    return (p * (p.log() - q.log())).sum(1).mean()


def test_kd(step: Step) -> None:
    s, t, y = step.student.outputs.logits, step.batch.teacher_logits, step.batch.y
    expected = 0.1 * cross_entropy(s, y) + 0.9 * 4**2 * mean_kl(t / 4, s / 4)
    assert_same_loss(step.loss(step.make_task("kd")), expected, *step.student.leaves())
    params = {"label_weight": 0.3, "kd_weight": 2.0, "temperature": 1.5}
    names = released("kd", params)
    assert names == {"CE_WEIGHT": 0.3, "KD_WEIGHT": 2.0, "TEMPERATURE": 1.5}
    expected = 0.3 * cross_entropy(s, y) + 2.0 * 1.5**2 * mean_kl(t / 1.5, s / 1.5)
    assert_same_loss(step.loss(step.make_task("kd", **params)), expected, *step.student.leaves())


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.05), (5, 0.25), (20, 1.0), (33, 1.0)])
def test_dkd(step: Step, epoch: int, share: float) -> None:
    step.batch.epoch = epoch
    s, t, y = step.student.outputs.logits, step.batch.teacher_logits, step.batch.y
    params = {"target_weight": 3.0, "non_target_weight": 7.0, "temperature": 2.5}
    names = released("dkd", params)
    target, rest = torch.zeros(2, dtype=torch.float64)
    for i, label in enumerate(y.tolist()):
        p, q = softmax(t[i] / names["T"], 0), softmax(s[i] / names["T"], 0)
        for a, b in ((p[label], q[label]), (1 - p[label], 1 - q[label])):
            target = target + names["T"] ** 2 * a * (a / b).log() / len(y)
        for k in set(range(NUM_CLASSES)) - {label}:
            a, b = p[k] / (1 - p[label]), q[k] / (1 - q[label])
            rest = rest + names["T"] ** 2 * a * (a / b).log() / len(y)
    expected = cross_entropy(s, y) + share * (names["ALPHA"] * target + names["BETA"] * rest)
    task = step.make_task("dkd", **params)
    assert_same_loss(step.loss(task), expected, *step.student.leaves())


def plain_decoupled(step: Step, weights: Tensor, names: dict[str, Any], share: float) -> Tensor:
    """The loss of the released IKL-KD (without GAMMA) and GKL-KD (with GAMMA)."""
    s, t, y = step.student.outputs.logits, step.batch.teacher_logits, step.batch.y
    if "GAMMA" in names:
        powers = weights ** names["GAMMA"]
        squares = pairwise_mse(t, s, powers).sum() / (powers.sum(1) ** 2).sum()
    else:
        squares = pairwise_mse(t, s, weights).mean()
    p = softmax(t / names["T"], 1)
    soft = -(p * log_softmax(s / names["T"], 1)).sum(1).mean()
    teacher_part = names["BETA"] * squares + names["ALPHA"] * soft
    return names["CE_WEIGHT"] * cross_entropy(s, y) + share * teacher_part


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.05), (5, 0.25), (20, 1.0), (33, 1.0)])
@pytest.mark.parametrize(("method", "power"), [("ikl-kd", {}), ("gkl-kd", {"power": 0.3})])
def test_decoupled_with_each_samples_weights(
    step: Step, method: str, power: dict[str, float], epoch: int, share: float
) -> None:
    step.batch.epoch = epoch
    names = released(method, {**PARAMS, **power})
    assert (names["BETA"], names["ALPHA"]) == (5.0, 3.0)
    weights = softmax(step.batch.teacher_logits / 6.0, 1)
    task = step.make_task(method, **PARAMS, **power, sample_temperature=6.0)
    expected = plain_decoupled(step, weights, names, share)
    assert_same_loss(step.loss(task), expected, *step.student.leaves())


@pytest.mark.parametrize(("method", "power"), [("ikl-kd", {}), ("gkl-kd", {"power": 0.3})])
def test_decoupled_with_global_information(
    step: Step, method: str, power: dict[str, float]
) -> None:
    """Weights are uniform in the first epoch, then the class's mean predictions of that epoch."""
    params = {**PARAMS, **power, "global_information": True, "class_temperature": 1.7}
    task = step.make_task(method, **params)
    names = released(method, params)
    assert names["GI"] is True
    # The initial means are float32.
    matrix = torch.full((NUM_CLASSES, NUM_CLASSES), 1 / NUM_CLASSES).double()
    y, leaves = step.batch.y, step.student.leaves()
    uniform = plain_decoupled(step, matrix[y], names, 0.25)
    assert_same_loss(step.loss(task), uniform, *leaves)
    for _ in range(2):
        task.observe(step.batch, task.loss(step.student, step.batch))
    assert_same_loss(step.loss(task), uniform, *leaves)
    predictions = softmax(step.batch.teacher_logits / 1.7, 1)
    for label in y.unique():
        matrix[label] = predictions[y == label].mean(0)
    task.end_epoch(5)
    assert_same_loss(step.loss(task), plain_decoupled(step, matrix[y], names, 0.25), *leaves)
    resumed = step.make_task(method, **params)
    resumed.load_state_dict(task.state_dict())
    assert torch.equal(step.loss(resumed), step.loss(task))


def test_weighted_mse_of_dkl_kd_has_no_effect_on_the_student(step: Step) -> None:
    """It changes the value of the loss but no gradient; in ikl-kd it also changes the gradient."""
    leaves = step.student.leaves()
    values, found = {}, {}
    for method in ("dkl-kd", "ikl-kd"):
        for weight in (0.0, 1000.0):
            task = step.make_task(method, **{**PARAMS, "wmse_weight": weight})
            loss = step.loss(task)
            values[method, weight] = float(loss.detach())
            found[method, weight] = gradients(loss, leaves)[-1]
    assert values["dkl-kd", 1000.0] > values["dkl-kd", 0.0] + 1
    assert torch.equal(found["dkl-kd", 0.0], found["dkl-kd", 1000.0])
    assert torch.equal(found["dkl-kd", 0.0], found["ikl-kd", 0.0])
    assert not torch.allclose(found["ikl-kd", 0.0], found["ikl-kd", 1000.0])


def test_dkl_kd(step: Step) -> None:
    """Its value is that of ikl-kd with weights at temperature 1, its gradient that of KD."""
    leaves = step.student.leaves()
    ours = step.loss(step.make_task("dkl-kd", **PARAMS))
    names = {"BETA": 5.0, "ALPHA": 3.0, "T": 2.5, "CE_WEIGHT": 0.7}
    value = plain_decoupled(step, softmax(step.batch.teacher_logits, 1), names, 0.25)
    torch.testing.assert_close(ours, value, rtol=1e-9, atol=1e-9)
    kd = step.make_task("kd", label_weight=0.7, kd_weight=0.25 * 3.0 / 2.5**2, temperature=2.5)
    torch.testing.assert_close(
        gradients(ours, leaves), gradients(step.loss(kd), leaves), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("method", ["kd", "dkd", *DECOUPLED])
def test_parts_are_unweighted_and_detached(step: Step, method: str) -> None:
    task = step.make_task(method)
    output = task.loss(step.student, step.batch)
    s, y = step.student.outputs.logits, step.batch.y
    torch.testing.assert_close(output.parts["ce"], cross_entropy(s, y).detach())
    assert not any(part.requires_grad for part in output.parts.values())
    assert task.needs_teacher_logits
    assert not list(task.parameters())


@pytest.mark.parametrize("method", ["kd", "dkd", *DECOUPLED])
def test_the_engines_logits_are_all_that_is_needed_of_the_teacher(step: Step, method: str) -> None:
    """A table of logits may replace the teacher, so the task must not run it."""

    def refuse(x: Tensor) -> Features:
        raise AssertionError("the teacher ran")

    step.teacher.forward = refuse  # type: ignore[assignment,method-assign]
    step.teacher.features = refuse  # type: ignore[method-assign]
    task = step.make_task(method)
    assert bool(step.loss(task).isfinite())
    step.batch.teacher_output = None
    with pytest.raises(RuntimeError, match="no teacher logits"):
        step.loss(task)
