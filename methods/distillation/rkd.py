"""RKD: distances and angles between embeddings imitate the teacher's (Park et al., 2019)."""

from __future__ import annotations

from pydantic import Field

from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.relational import rkd_loss


class RkdParams(DistillationParams):
    """Weights of the distances and of the angles."""

    distance_weight: float = Field(25.0, ge=0)
    angle_weight: float = Field(50.0, ge=0)


class RkdTask(FeatureTask):
    """Relations between the pooled features of a batch."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + distance_weight and angle_weight times their Huber losses."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        distance, angle = rkd_loss(student.pooled, teacher.pooled)
        loss = self.params.label_weight * ce
        loss = loss + self.params.distance_weight * distance + self.params.angle_weight * angle
        return StepOutput(loss, detached(ce=ce, distance=distance, angle=angle))


METHOD = Method(
    card=MethodCard(
        title="RKD",
        family="distillation",
        summary="Trains distances between the embeddings of a batch, and angles in triples of "
        "them, to imitate the teacher's.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{distance\_weight}\, "
            r"\mathrm{mean}_{ij}\, h(d_{ij}^s - d_{ij}^t) + \mathtt{angle\_weight}\, "
            r"\mathrm{mean}_{ijk}\, h(a_{ijk}^s - a_{ijk}^t)"
        ),
        **cite("park2019relational"),
        tables=(5, 7),
        notes=(
            "Distances are in units of the batch's mean; h is Huber's loss. As released, means "
            "include pairs of a point with itself.",
            "All pairs have the same weights. The printed rows are the last epoch's.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "CE_WEIGHT",
            "distance_weight": "DISTANCE_WEIGHT",
            "angle_weight": "ANGLE_WEIGHT",
        },
    ),
    params=RkdParams,
    task=RkdTask,
    recipes=_pairs.recipes(pairs=_pairs.CIFAR_PAIRS),
    recipe_notes=_pairs.last_epoch_note(),
)
