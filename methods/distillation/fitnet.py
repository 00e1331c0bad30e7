"""FitNet: a middle feature map imitates the teacher's (Romero et al., 2015)."""

from __future__ import annotations

from pydantic import Field

from harness.errors import UserError
from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.hints import HintRegressor, hint_loss


class FitnetParams(DistillationParams):
    """The hint's weight, and its stage; stage 0 is the stem."""

    hint_weight: float = Field(100.0, ge=0)
    hint_stage: int = Field(2, ge=0)


class FitnetTask(FeatureTask):
    """A convolution, trained alongside, maps the student's features to the teacher's shape."""

    def __init__(self, params: FitnetParams, context: TaskContext) -> None:
        """Build the convolution for the two shapes.

        Raises:
            UserError: a model has no such stage, or no convolution maps it to the teacher's size.
        """
        super().__init__(params, context)
        shapes = []
        for model in (self.student, self.teacher):
            stages = self.shapes(model).stages
            if params.hint_stage >= len(stages):
                raise UserError(
                    f"params.hint_stage is {params.hint_stage}, but a model has only stages 0 to "
                    f"{len(stages) - 1}: choose one of them"
                )
            _, channels, side, _ = stages[params.hint_stage].shape
            shapes.append((channels, side))
        self.regressor = HintRegressor(*shapes, advice="choose another params.hint_stage")

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + hint_weight times the mean squared error of the translated map."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        stage = self.params.hint_stage
        hint = hint_loss(self.regressor(student.stages[stage]), teacher.stages[stage])
        loss = self.params.label_weight * ce + self.params.hint_weight * hint
        return StepOutput(loss, detached(ce=ce, hint=hint))


METHOD = Method(
    card=MethodCard(
        title="FitNet",
        family="distillation",
        summary="Trains a middle feature map of the student, passed through a small trained "
        "convolution, to imitate the teacher's.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{hint\_weight}\, \mathrm{mean} "
            r"\left(r(f_s) - f_t\right)^2, \quad r = \mathrm{ReLU} \circ \mathrm{BN} \circ "
            r"\mathrm{Conv}"
        ),
        **cite("romero2015fitnets"),
        tables=(5, 7),
        notes=(
            "The paper trains in two stages. As released with CRD and mdistiller, hint and labels "
            "are used together, and the two sizes determine the convolution's kernel.",
            "All pairs have the same parameters. The printed rows are the last epoch's.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "CE_WEIGHT",
            "hint_weight": "FEAT_WEIGHT",
            "hint_stage": "HINT_LAYER",
        },
    ),
    params=FitnetParams,
    task=FitnetTask,
    recipes=_pairs.recipes(
        pairs=_pairs.CIFAR_PAIRS, small_changes={"params": {"hint_weight": 10.0}}
    ),
    recipe_notes=_pairs.last_epoch_note(),
)
