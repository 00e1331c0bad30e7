"""Logit standardisation for any method that distils logits (Sun et al., 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from harness.config.validate import validated
from harness.errors import UserError
from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task, TaskContext
from harness.registry import METHODS
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import float32_or_wider

EPSILON = 1e-7
KD = {"label_weight": 0.1, "kd_weight": 9.0, "temperature": 2.0}


def standardised(logits_BC: Tensor) -> Tensor:
    """(z - mean) / (std + 1e-7) of each sample, with std over C - 1.

    Source: Sun et al., "Logit standardization in knowledge distillation", CVPR 2024, Algorithm 1;
    the temperature is applied later, in the loss.

    Args:
        logits_BC: logits [B, C], C >= 2.

    Returns:
        [B, C] of mean 0 and standard deviation 1 in each row.
    """
    logits_BC = float32_or_wider(logits_BC)
    std_B1, mean_B1 = logits_BC.std(dim=1, keepdim=True), logits_BC.mean(dim=1, keepdim=True)
    return (logits_BC - mean_B1) / (std_B1 + EPSILON)


class LogitStdParams(Params):
    """The method whose logits are standardised, and that method's parameters.

    Recipes set ``kd_params``, which fill ``base_params`` if the base is KD. They are a separate
    field, so that they do not become parameters of another base; it has its own defaults.
    """

    base: str = "kd"
    base_params: dict[str, JsonValue] = Field(default={})
    kd_params: dict[str, JsonValue] = Field(default={}, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("base", "kd") != "kd":
            return given
        own, recipe = given.get("base_params", {}), given.get("kd_params", {})
        if not isinstance(own, dict) or not isinstance(recipe, dict):
            return given
        return {**given, "base_params": {**KD, **recipe, **own}}


class LogitStdTask(Task):
    """The base method's loss on standardised logits; the labels' CE uses the raw logits."""

    needs_teacher_logits = True

    def __init__(self, params: LogitStdParams, context: TaskContext) -> None:
        """Build the base method's task.

        Raises:
            UserError: that method does not distil logits of one view, or has no such parameters.
        """
        super().__init__(params, context)
        method = METHODS.get(params.base)
        if not _distils_logits(method):
            raise UserError(
                f"params.base = {params.base!r} does not distil the logits of one view: choose "
                "kd, dkd, dist, ikl-kd, gkl-kd or dkl-kd"
            )
        own = validated(method.params, params.base_params, "params.base_params.")
        self.base = method.task(own.model_copy(update={"label_weight": 0.0}), context)
        self.label_weight = own.label_weight

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """The base's label_weight CE on raw logits + its loss on standardised logits."""
        student_BC = model(batch.x)
        ce = label_cross_entropy(student_BC, batch.targets)
        output = self.base.loss(lambda x: standardised(student_BC), _of_standardised(batch))
        return StepOutput(
            self.label_weight * ce + output.loss, {**output.parts, **detached(ce=ce)}, output.extras
        )

    def observe(self, batch: Batch, output: StepOutput) -> None:
        """See the base method."""
        self.base.observe(_of_standardised(batch), output)

    def end_epoch(self, epoch: int) -> None:
        """See the base method."""
        self.base.end_epoch(epoch)


def _distils_logits(method: Method) -> bool:
    """Whether the method's task, which must be a class, distils logits of one view."""
    return (
        issubclass(method.params, DistillationParams)
        and getattr(method.task, "needs_teacher_logits", False)
        and not getattr(method.task, "autoaugmented_views", 0)
    )


def _of_standardised(batch: Batch) -> Batch:
    return replace(batch, teacher_output=standardised(batch.teacher_logits))


# (temperature, weight) of pairs for which the names of the authors' logs differ from (2, 9).
LOGGED = {
    "vgg13-vgg8": (3.0, 9.0),
    "vgg13-mobilenet-v2": (3.0, 9.0),
    "resnet50-mobilenet-v2": (3.0, 1.0),
}


# The labels' weight on ImageNet; it is 0.1 for the other pairs.
LABEL_WEIGHTS = {"resnet34-resnet18": 1.0, "resnet50-mobilenet-v1": 0.5}


def _settings(pair: _pairs.Pair) -> Overrides:
    temperature, weight = LOGGED.get(pair.name, (2.0, 9.0))
    label_weight = LABEL_WEIGHTS.get(pair.name, 0.1)
    kd = {"label_weight": label_weight, "kd_weight": weight, "temperature": temperature}
    return {"params": {"kd_params": kd}}


METHOD = Method(
    card=MethodCard(
        title="Logit Std.",
        family="distillation",
        summary="Standardises each image's logits before a method distils them, so that the "
        "student need not match the scale of the teacher's logits.",
        formula=(
            r"\lambda\, \mathrm{CE}(s, y) + L_{\mathtt{base}}(Z(s), Z(t)), \quad Z(o) = \frac{o - "
            r"\mathrm{mean}(o)}{\mathrm{std}(o)}"
        ),
        **cite("sun2024logit"),
        notes=(
            "params.base names the method, such as dkd, and params.base_params sets its "
            "parameters; its label_weight is the formula's lambda. Recipes use KD; another method "
            "has its own defaults.",
            "The released code uses temperature 2, weight 9 and label weight 0.1 for KD (on "
            "ImageNet 1.0 for ResNets and 0.5 for MobileNet), and multiplies DKD's two weights by "
            "9. For three of the pairs the names of the authors' "
            "logs have other values, which their recipes use.",
            "The losses in the logs of resnet32x4 to ShuffleNetV2 start at 1.7, too low for the "
            "weight 9 in their name.",
        ),
        needs_teacher=True,
    ),
    params=LogitStdParams,
    task=LogitStdTask,
    recipes=_pairs.recipes(_settings),
    recipe_notes={
        "table7/resnet32x4-shufflenet-v1": "The authors report no value for this pair.",
        "table7/wrn-40-2-shufflenet-v1": "The authors report no value for this pair.",
    },
)
