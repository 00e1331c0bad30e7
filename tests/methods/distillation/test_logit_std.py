"""Logit standardisation against SciPy, and its base methods against their plain tasks."""

from typing import Any

import pytest
import torch
from scipy.stats import zscore
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from harness.experiment.resolve import recipe_changes, resolve, settings_of
from methods.distillation.logit_std import standardised
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def z(logits: Tensor) -> Tensor:
    rows = []
    for row in logits:
        mean = row.sum() / len(row)
        deviation = ((row - mean) ** 2).sum() / (len(row) - 1)
        rows.append((row - mean) / (deviation.sqrt() + 1e-7))
    return torch.stack(rows)


def kl(t: Tensor, s: Tensor) -> Tensor:
    p, q = t.softmax(1), s.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def test_standardised_is_scipys() -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 9, dtype=torch.float64)
    expected = torch.as_tensor(zscore(logits.numpy(), axis=1, ddof=1))
    torch.testing.assert_close(standardised(logits), expected, rtol=1e-6, atol=1e-6)


def test_kd_as_released(step: Step) -> None:
    s, t, y = step.student.outputs.logits, step.batch.teacher_logits, step.batch.y
    expected = 0.1 * cross_entropy(s, y) + 9 * 4 * kl(z(t) / 2, z(s) / 2)
    assert_same_loss(step.loss(step.make_task("logit-std")), expected, *step.student.leaves())


@pytest.mark.parametrize("base", ["kd", "dkd", "ikl-kd", "gkl-kd", "dist"])
def test_any_logit_method_takes_it(step: Step, base: str) -> None:
    """It equals the base's label-free loss of standardised logits plus the label loss."""
    s, y = step.student.outputs.logits, step.batch.y
    found = step.loss(step.make_task("logit-std", base=base, base_params={"label_weight": 0.3}))
    own = {"kd_weight": 9.0, "temperature": 2.0} if base == "kd" else {}
    plain = step.make_task(base, label_weight=0.0, **own)
    step.batch.teacher_output = z(step.batch.teacher_logits)
    other = plain.loss(lambda x: z(s), step.batch).loss
    assert_same_loss(found, 0.3 * cross_entropy(s, y) + other, *step.student.leaves())


def test_state_of_the_base_is_the_tasks(step: Step) -> None:
    """Class means of standardised logits are gathered, stored in checkpoints and used."""
    params = {"base": "ikl-kd", "base_params": {"global_information": True}}
    task, resumed = (step.make_task("logit-std", **params) for _ in range(2))
    before = step.loss(task)
    task.observe(step.batch, task.loss(step.student, step.batch))
    task.end_epoch(1)
    assert not torch.equal(step.loss(task), before)
    resumed.load_state_dict(task.state_dict())
    assert torch.equal(step.loss(resumed), step.loss(task))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"base": "crd"}, "does not distil the logits of one view"),
        ({"base": "mlkd", "base_params": {"temperature": 3}}, "'mlkd' does not distil the logits"),
        ({"base": "vanilla"}, "does not distil the logits of one view"),
        ({"base": "logit-std"}, "does not distil the logits of one view"),
        ({"base": "kdd"}, "unknown method 'kdd'"),
        ({"base": "kd", "base_params": {"tau": 2}}, "params.base_params.tau"),
    ],
)
def test_other_bases_are_refused(step: Step, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        step.make_task("logit-std", **params)


def test_recipes_have_the_logged_settings() -> None:
    config = resolve("logit-std", recipe="table5/vgg13-vgg8")
    logged = {"label_weight": 0.1, "kd_weight": 9.0, "temperature": 3.0}
    assert config.params == {"base": "kd", "base_params": logged}


@pytest.mark.parametrize("recipe", ["digits", "cifar100", "table5/vgg13-vgg8"])
def test_another_base_has_its_own_defaults_and_not_those_of_kd(recipe: str) -> None:
    other = ["params.base=dkd"]
    config = resolve("logit-std", recipe=recipe, assignments=other)
    assert config.params == {"base": "dkd", "base_params": {}}
    assert recipe_changes(config) == {"params.base": "dkd"}
    again = resolve("logit-std", recipe=recipe, settings=settings_of(config))
    assert again.run_id == config.run_id
    weight = [*other, "params.base_params.target_weight=2.0"]
    config = resolve("logit-std", recipe=recipe, assignments=weight)
    assert config.params["base_params"] == {"target_weight": 2.0}


@pytest.mark.parametrize(
    ("recipe", "label_weight"), [("digits", 0.1), ("table3/resnet34-resnet18", 1.0)]
)
def test_a_changed_parameter_of_kd_keeps_the_others(recipe: str, label_weight: float) -> None:
    config = resolve("logit-std", recipe=recipe, assignments=["params.base_params.temperature=5.0"])
    expected = {"label_weight": label_weight, "kd_weight": 9.0, "temperature": 5.0}
    assert config.params["base_params"] == expected
    assert recipe_changes(config) == {"params.base_params.temperature": 5.0}


def test_parameters_that_are_no_section_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^params.base_params = 3 is refused"):
        resolve("logit-std", recipe="digits", assignments=["params.base_params=3"])
