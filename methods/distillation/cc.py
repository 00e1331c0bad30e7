"""CC: correlations between images imitate the teacher's (Peng et al., 2019)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import float32_or_wider


def correlation_loss(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """mean_i |s_i - t_i| . |s_(i+1) - t_(i+1)| of neighbours in the batch.

    Source: the authors' code for Peng et al., "Correlation congruence for knowledge distillation",
    ICCV 2019, as RepDistiller has it. The paper compares kernels of all pairs instead.

    Args:
        student_BE: embeddings [B, E], B >= 2.
        teacher_BE: the teacher's embeddings [B, E]; gradients flow into both.

    Returns:
        The mean over the B - 1 pairs of neighbours, a scalar >= 0.
    """
    distance_BE = (float32_or_wider(student_BE) - float32_or_wider(teacher_BE)).abs()
    return (distance_BE[:-1] * distance_BE[1:]).sum(dim=1).mean()


class CcParams(DistillationParams):
    """The correlation's weight, and the length of the embeddings."""

    correlation_weight: float = Field(0.02, ge=0)
    embedding_size: int = Field(128, ge=1)


class CcTask(FeatureTask):
    """Linear embeddings of both models' pooled features are trained alongside the student."""

    least_batch = 2

    def __init__(self, params: CcParams, context: TaskContext) -> None:
        """Build the embeddings."""
        super().__init__(params, context)
        self.embed_student, self.embed_teacher = (
            nn.Linear(self.shapes(model).pooled.shape[1], params.embedding_size)
            for model in (self.student, self.teacher)
        )

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + correlation_weight times the neighbours' loss."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        correlation = correlation_loss(
            self.embed_student(student.pooled), self.embed_teacher(teacher.pooled)
        )
        loss = self.params.label_weight * ce + self.params.correlation_weight * correlation
        return StepOutput(loss, detached(ce=ce, correlation=correlation))


METHOD = Method(
    card=MethodCard(
        title="CC",
        family="distillation",
        summary="Penalises products of the deviations of two images' embeddings from the "
        "teacher's, which makes the deviations uncorrelated and small.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{correlation\_weight}\, "
            r"\frac{1}{B - 1} \sum_{i=1}^{B-1} \delta_i^\top \delta_{i+1}, \quad \delta_i = "
            r"|W_s f_i^s - W_t f_i^t|"
        ),
        **cite("peng2019correlation"),
        notes=(
            "The paper matches Gaussian kernels of all pairs, expanded in a Taylor series. The "
            "authors' code, which RepDistiller uses for its table and which is followed here, "
            "multiplies the deviations of neighbours in the batch.",
            "Both embeddings are trained, so the loss can also fall because the teacher's "
            "embedding becomes small.",
            "The weight is that of RepDistiller, the same for all pairs.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "gamma",
            "correlation_weight": "beta",
            "embedding_size": "feat_dim",
        },
    ),
    params=CcParams,
    task=CcTask,
    recipes=_pairs.recipes(pairs=_pairs.CIFAR_PAIRS),
)
