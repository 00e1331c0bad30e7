"""OFD: feature maps before activation imitate the teacher's (Heo et al., 2019)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from harness.config import merge
from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from harness.models.features import Features
from harness.training.modes import attack_mode
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.overhaul import OverhaulDistillation


class OfdParams(DistillationParams):
    """The weight of the maps' distance, and the statistics by which the teacher normalises.

    ``batch_statistics``: the teacher's BatchNorms use statistics of the batch, not running ones.
    """

    overhaul_weight: float = Field(1e-3, ge=0)
    batch_statistics: bool = True


class OfdTask(FeatureTask):
    """1x1 convolutions, trained alongside, map the student's features to the teacher's channels."""

    def __init__(self, params: OfdParams, context: TaskContext) -> None:
        """Build a connector for each pair of stages; the teacher's BatchNorms give the margins.

        Raises:
            UserError: a model does not expose its features.
        """
        super().__init__(params, context)
        self.overhaul = OverhaulDistillation(
            self.student.feature_channels, self.teacher.batchnorm_before_relu()
        )

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + overhaul_weight times the partial L2 distance before activation."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        overhaul = self.overhaul(student.preacts, teacher.preacts)
        loss = self.params.label_weight * ce + self.params.overhaul_weight * overhaul
        return StepOutput(loss, detached(ce=ce, overhaul=overhaul))

    def teacher_features(self, x: Tensor) -> Features:
        """See ``FeatureTask``.

        The released teacher, in training mode, also updates its running statistics, which are never
        used; here they do not change.
        """
        mode = "train-frozen" if self.params.batch_statistics else "eval"
        with attack_mode(self.teacher, mode):
            return super().teacher_features(x)


def _settings(pair: _pairs.Pair) -> Overrides:
    if pair.dataset == "imagenet":
        return merge(_pairs.imagenet_batch(128), {"params": {"overhaul_weight": 1e-4}})
    return {}


METHOD = Method(
    card=MethodCard(
        title="OFD",
        family="distillation",
        summary="Trains the student's pre-activation maps, projected to the teacher's channels, to "
        "imitate the teacher's where its activation passes values on.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{overhaul\_weight} \sum_{l < n} "
            r"2^{l + 1 - n} d_p\left(\max(f_t^l, m), r_l(f_s^l)\right)"
        ),
        **cite("heo2019comprehensive"),
        tables=(3, 5, 7),
        notes=(
            "The teacher is in training mode, as its author intended, so its BatchNorms use batch "
            "statistics; params.batch_statistics=false puts it in eval mode. The released "
            "teacher's running statistics change meanwhile, without effect; here they do not.",
            "Every pair runs. The public code crashes on four of the five pairs of Table 7 and on "
            "ResNet34 to ResNet18, so it cannot have produced those printed numbers.",
            "From ResNet50 to MobileNetV1 the released code treats the student's first stage as "
            "its stem and connects three stages; here four are connected.",
            "On ImageNet the batch size is 128, the learning rate 0.05 and the weight 0.0001.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "CE_WEIGHT", "overhaul_weight": "FEAT_WEIGHT"},
    ),
    params=OfdParams,
    task=OfdTask,
    recipes=_pairs.recipes(_settings),
)
