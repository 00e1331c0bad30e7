"""Attention transfer: attention maps imitate the teacher's (Zagoruyko, Komodakis, 2017)."""

from __future__ import annotations

from pydantic import Field

from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.attention import attention_loss
from methods.losses.cross_entropy import label_cross_entropy


class AttentionParams(DistillationParams):
    """The weight of the maps' distance."""

    attention_weight: float = Field(1000.0, ge=0)


class AttentionTask(FeatureTask):
    """Attention maps of all stages."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + attention_weight times the distance of maps, summed over stages."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        attention = attention_loss(student.stages, teacher.stages)
        loss = self.params.label_weight * ce + self.params.attention_weight * attention
        return StepOutput(loss, detached(ce=ce, attention=attention))


METHOD = Method(
    card=MethodCard(
        title="AT",
        family="distillation",
        summary="Trains attention maps, which show where each stage of the student is active, to "
        "imitate the teacher's.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{attention\_weight} \sum_l "
            r"\mathrm{mean} \left(Q_s^l - Q_t^l\right)^2, \quad Q = \frac{a}{\|a\|_2}, \quad a = "
            r"\mathrm{mean}_k f_k^2"
        ),
        **cite("zagoruyko2017paying"),
        tables=(3,),
        notes=(
            "The stem is left out, and the larger map is pooled to the smaller one, as released.",
            "Stages are paired from the last one backwards. The released code, in which "
            "MobileNetV1 lists no stem, pairs its stages with those of ResNet50 one too early and "
            "drops the teacher's last.",
            "The weight is the same for all pairs; Tables 5 and 7 have no row for this method. "
            "Small-scale recipes use 50, since the mean over fewer positions is larger.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "CE_WEIGHT", "attention_weight": "FEAT_WEIGHT"},
    ),
    params=AttentionParams,
    task=AttentionTask,
    recipes=_pairs.recipes(small_changes={"params": {"attention_weight": 50.0}}),
    recipe_notes={
        "table3/resnet50-mobilenet-v1": "Here each of the four stages of 56, 28, 14 and 7 pixels "
        "is paired with the teacher's of the same size; the released code pairs different sizes."
    },
)
