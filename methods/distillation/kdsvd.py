"""KDSVD: relations of the maps' leading singular vectors are distilled (Lee et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, TaskContext
from methods import _pairs
from methods._papers import cite
from methods._steps import detached
from methods.distillation._task import DistillationParams, FeatureTask
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import exact_matmul, float32_or_wider
from methods.losses.stages import matched_stages

# The student has this many more candidate vectors than the teacher; each of the teacher's vectors
# is compared with the most similar candidate.
FURTHER = 3
# Squared singular values that differ by less than this share of the largest count as equal.
RESOLUTION = 1e-5


class RightVectors(torch.autograd.Function):
    """The leading right singular vectors [B, K, n] of matrices [B, P, K].

    The gradient needs the singular values of these n vectors to differ from all others; torch's
    needs all values to differ, and is NaN for maps with two channels that are never active.
    """

    @staticmethod
    def forward(ctx: Any, matrix_BPK: Tensor, number: int) -> Tensor:
        """See the class."""
        _, values_BR, right_BRK = torch.linalg.svd(matrix_BPK, full_matrices=False)
        ctx.save_for_backward(matrix_BPK, values_BR, right_BRK)
        ctx.number = number
        leading_BKN: Tensor = right_BRK[:, :number].transpose(1, 2)
        return leading_BKN

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """First-order perturbation of the eigenvectors of M^T M."""
        (gradient_BKN,) = gradients
        matrix_BPK, values_BR, right_BRK = ctx.saved_tensors
        squares_BR = values_BR.square()
        least_B11 = RESOLUTION * squares_BR[:, :1, None]
        own_B1N = squares_BR[:, None, : ctx.number]

        def inverse(gaps: Tensor) -> Tensor:
            return torch.where(gaps.abs() > least_B11, 1 / gaps, 0.0)

        inside_BRN = right_BRK @ gradient_BKN
        outside_BKN = gradient_BKN - right_BRK.transpose(1, 2) @ inside_BRN
        turned_BKN = right_BRK.transpose(1, 2) @ (
            inverse(own_B1N - squares_BR[:, :, None]) * inside_BRN
        )
        turned_BKN = turned_BKN + inverse(own_B1N) * outside_BKN
        gram_BKK = turned_BKN @ right_BRK[:, : ctx.number]
        return matrix_BPK @ (gram_BKK + gram_BKK.transpose(1, 2)), None


def singular_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], vectors: int) -> Tensor:
    """sum_l sum (R_l(s) - R_l(t))^2 over pairs of stages, channels of both, and vectors.

    R_l = exp(-(v_l[k] - v_(l-1)[k'])^2 / 8), v_l the leading right singular vectors of the map of
    stage l as a matrix of positions by channels. Each of the teacher's vectors is compared with the
    student's most similar one, with matched sign, and both are scaled by the teacher's singular
    values, normalised to length 1.

    Source: Lee et al., "Self-supervised knowledge distillation using singular value decomposition",
    ECCV 2018, Eqs. 3-6, as released with RepDistiller.

    Args:
        student: feature maps [B, K, H, W] of the stem and of each stage; the stem is left out.
        teacher: the teacher's maps, with the same channels; no gradient flows into them.
        vectors: number of the teacher's vectors.

    Returns:
        The mean over the batch, a scalar >= 0.
    """
    terms, before = [], None
    for s_BKHW, t_BKHW in matched_stages(student, teacher):
        with torch.no_grad():
            t_BKN, values_BN = _leading(t_BKHW, vectors)
        s_BKM = RightVectors.apply(_matrix(s_BKHW), vectors + FURTHER)  # type: ignore[no-untyped-call]
        t_BKN, s_BKN = t_BKN * values_BN[:, None], _aligned(s_BKM, t_BKN) * values_BN[:, None]
        if before is not None:
            pairs = zip((s_BKN, t_BKN), before, strict=True)
            s_BKLN, t_BKLN = (_similarity(*pair) for pair in pairs)
            terms.append((s_BKLN - t_BKLN).square().sum() / len(s_BKHW))
        before = (s_BKN, t_BKN)
    return torch.stack(terms).sum()


def _matrix(map_BKHW: Tensor) -> Tensor:
    return float32_or_wider(map_BKHW).flatten(2).transpose(1, 2)


def _leading(map_BKHW: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return right singular vectors [B, K, n] with positive sums and values [B, n] of length 1."""
    _, values_BR, right_BRK = torch.linalg.svd(_matrix(map_BKHW), full_matrices=False)
    vectors_BKN = right_BRK[:, :number].transpose(1, 2)
    signs_B1N = vectors_BKN.sum(dim=1, keepdim=True).sign()
    return vectors_BKN * signs_B1N, normalize(values_BR[:, :number], dim=1)


def _aligned(student_BKM: Tensor, teacher_BKN: Tensor) -> Tensor:
    """Return, for each teacher vector, the student's of largest absolute cosine, sign matched."""
    cosine_BMN = exact_matmul(student_BKM.detach().transpose(1, 2), teacher_BKN)
    best_B1N = cosine_BMN.abs().argmax(dim=1, keepdim=True)
    chosen_BKN = student_BKM.gather(2, best_B1N.expand(-1, student_BKM.shape[1], -1))
    return chosen_BKN * cosine_BMN.gather(1, best_B1N).sign()


def _similarity(here_BKN: Tensor, before_BLN: Tensor) -> Tensor:
    return (-(here_BKN[:, :, None] - before_BLN[:, None]).square() / 8).exp()


class KdsvdParams(DistillationParams):
    """The weight of the correlations, and the number of the teacher's singular vectors."""

    correlation_weight: float = Field(1.0, ge=0)
    vectors: int = Field(1, ge=1)


class KdsvdTask(FeatureTask):
    """Singular vectors of all stages."""

    def __init__(self, params: KdsvdParams, context: TaskContext) -> None:
        """Check the channels.

        Raises:
            UserError: the models' features have different channels.
        """
        super().__init__(params, context)
        self.require_same_channels()

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + correlation_weight times the distance, summed over pairs of stages."""
        student, teacher = self.features(model, batch)
        ce = label_cross_entropy(student.logits, batch.targets)
        correlation = singular_loss(student.stages, teacher.stages, self.params.vectors)
        loss = self.params.label_weight * ce + self.params.correlation_weight * correlation
        return StepOutput(loss, detached(ce=ce, correlation=correlation))


METHOD = Method(
    card=MethodCard(
        title="KDSVD",
        family="distillation",
        summary="Trains the relations between the leading singular vectors of successive stages' "
        "maps to imitate the teacher's.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{correlation\_weight} \sum_l "
            r"\left\|R_l^s - R_l^t\right\|_2^2, \quad R_l = \exp\left(-\frac{1}{8} (v_l[k] - "
            r"v_{l-1}[k'])^2\right), \quad f_l = u\, \mathrm{diag}(\sigma)\, v_l^\top"
        ),
        **cite("lee2018self"),
        notes=(
            "As in the paper and RepDistiller, maps are decomposed as positions by channels, so "
            "both models need the same channels, as five of the eleven CIFAR pairs have. "
            "mdistiller decomposes channels and rows by columns instead.",
            "The weight is mdistiller's; the single vector is also RepDistiller's, which gives no "
            "weight. Neither of their tables has a row for this method.",
            "With several vectors, those of both models are scaled by the teacher's singular "
            "values, divided by their length.",
            "The sign of a singular vector is arbitrary. The released code leaves the teacher's to "
            "the library; here its sum is positive.",
            "The gradient ignores vectors with nearly equal singular values, for which the "
            "released code's gradient is NaN.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "CE_WEIGHT",
            "correlation_weight": "FEAT_WEIGHT",
            "vectors": "K",
        },
    ),
    params=KdsvdParams,
    task=KdsvdTask,
    recipes=_pairs.recipes(pairs=_pairs.SAME_CHANNELS),
)
