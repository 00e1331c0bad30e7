"""SP: similarities between images imitate the teacher's (Tung and Mori, 2019)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import exact_matmul, float32_or_wider


def similarity_loss(student_BKHW: Tensor, teacher_BKHW: Tensor) -> Tensor:
    """mean_ij (G_ij(s) - G_ij(t))^2, G the inner products of a batch's maps, each row of length 1.

    Source: Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019, Eqs. 1-4.

    Args:
        student_BKHW: feature maps [B, K, H, W].
        teacher_BKHW: the teacher's, of any shape [B, ...]; no gradient flows into them.

    Returns:
        A scalar >= 0.
    """
    return (_similarities(student_BKHW) - _similarities(teacher_BKHW.detach())).square().mean()


def _similarities(map_BKHW: Tensor) -> Tensor:
    flat_BD = float32_or_wider(map_BKHW).flatten(1)
    return normalize(exact_matmul(flat_BD, flat_BD.T), dim=1)


class SpParams(DistillationParams):
    """The weight of the similarities' distance."""

    similarity_weight: float = Field(3000.0, ge=0)


class SpTask(FeatureTask):
    """Similarities of the last stage's maps."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + similarity_weight times the distance of similarities."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        similarity = similarity_loss(student.stages[-1], teacher.stages[-1])
        loss = self.params.label_weight * ce + self.params.similarity_weight * similarity
        return StepOutput(loss, detached(ce=ce, similarity=similarity))


METHOD = Method(
    card=MethodCard(
        title="SP",
        family="distillation",
        summary="Matches the similarities between the images of a batch, computed from the maps of "
        "the last stage, to the teacher's.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{similarity\_weight}\, "
            r"\frac{1}{B^2} \|G_s - G_t\|_F^2, \quad G_i = \frac{(F F^\top)_i}"
            r"{\|(F F^\top)_i\|_2}, \quad F \in \mathbb{R}^{B \times KHW}"
        ),
        **cite("tung2019similarity"),
        notes=(
            "The weight is that of RepDistiller and mdistiller, the same for all pairs. "
            "RepDistiller's loss was verified by the author; its table prints the last epoch.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "CE_WEIGHT", "similarity_weight": "FEAT_WEIGHT"},
    ),
    params=SpParams,
    task=SpTask,
    recipes=_pairs.recipes(pairs=_pairs.CIFAR_PAIRS),
)
