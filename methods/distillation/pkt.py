"""PKT: the probabilities that images are neighbours are distilled (Passalis and Tefas, 2018)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from harness.method import Batch, Forward, Method, MethodCard, StepOutput
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import exact_matmul, float32_or_wider

EPSILON = 1e-7


def neighbour_loss(student_BD: Tensor, teacher_BE: Tensor) -> Tensor:
    """mean_ij p_ij(t) log((p_ij(t) + eps) / (p_ij(s) + eps)), eps = 1e-7.

    p_ij is (1 + cos(f_i, f_j)) / 2, divided by its sum over j.

    Source: Passalis and Tefas, "Learning deep representations with probabilistic knowledge
    transfer", ECCV 2018, Eqs. 4-8, with the mean over pairs that the authors' code takes.

    Args:
        student_BD: features [B, D].
        teacher_BE: the teacher's [B, E]; no gradient flows into them.

    Returns:
        A scalar.
    """
    student_BB, teacher_BB = _neighbours(student_BD), _neighbours(teacher_BE.detach())
    ratio_BB = (teacher_BB + EPSILON) / (student_BB + EPSILON)
    return (teacher_BB * ratio_BB.log()).mean()


def _neighbours(features_BD: Tensor) -> Tensor:
    features_BD = float32_or_wider(features_BD)
    # ``norm`` has gradient zero at a zero vector, where a square root would have none.
    units_BD = features_BD / (features_BD.norm(dim=1, keepdim=True) + EPSILON)
    near_BB = (exact_matmul(units_BD, units_BD.T) + 1) / 2
    return near_BB / near_BB.sum(dim=1, keepdim=True)


class PktParams(DistillationParams):
    """The weight of the probabilities' divergence."""

    neighbour_weight: float = Field(30000.0, ge=0)


class PktTask(FeatureTask):
    """Probabilities from the pooled features of a batch."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + neighbour_weight times the divergence."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        neighbours = neighbour_loss(student.pooled, teacher.pooled)
        loss = self.params.label_weight * ce + self.params.neighbour_weight * neighbours
        return StepOutput(loss, detached(ce=ce, neighbours=neighbours))


METHOD = Method(
    card=MethodCard(
        title="PKT",
        family="distillation",
        summary="Matches the probabilities that two images of a batch are neighbours, given by the "
        "cosine of their features, to the teacher's.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{neighbour\_weight}\, "
            r"\frac{1}{B^2} \sum_{ij} p_{ij}^t \log \frac{p_{ij}^t}{p_{ij}^s}, \quad p_{ij} = "
            r"\frac{1 + \cos(f_i, f_j)}{\sum_k (1 + \cos(f_i, f_k))}"
        ),
        **cite("passalis2018learning"),
        notes=(
            "The paper sums over pairs without i = j; the authors' code, which RepDistiller and "
            "mdistiller use and which is followed here, takes the mean over all pairs and adds "
            "1e-7 to lengths and probabilities.",
            "The weight is that of RepDistiller and mdistiller, the same for all pairs.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "CE_WEIGHT", "neighbour_weight": "FEAT_WEIGHT"},
    ),
    params=PktParams,
    task=PktTask,
    recipes=_pairs.recipes(pairs=_pairs.CIFAR_PAIRS),
)
