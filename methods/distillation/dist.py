"""DIST: predictions correlate with the teacher's (Huang et al., 2022)."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softmax

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, Task
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.precision import float32_or_wider

EPSILON = 1e-8


class CorrelationParts(NamedTuple):
    """The two parts of DIST, unweighted scalars in [0, 2 T^2].

    Attributes:
        inter: over the classes, for each image.
        intra: over the images of the batch, for each class.
    """

    inter: Tensor
    intra: Tensor


def correlation_loss(
    student_BC: Tensor, teacher_BC: Tensor, temperature: float
) -> CorrelationParts:
    """T^2 (1 - mean Pearson correlation) of the predictions softmax(. / T), by rows and by columns.

    Source: Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022, Eqs. 9-10,
    and, from the released code, the factor T^2 and the 1e-8 added to the product of lengths.

    Args:
        student_BC: logits [B, C].
        teacher_BC: logits [B, C]; no gradient flows into them.
        temperature: T > 0.

    Returns:
        The unweighted parts.
    """
    student, teacher = (
        softmax(float32_or_wider(logits) / temperature, dim=1)
        for logits in (student_BC, teacher_BC.detach())
    )
    inter, intra = (
        temperature**2 * (1 - _pearson(s, t).mean())
        for s, t in ((student, teacher), (student.T, teacher.T))
    )
    return CorrelationParts(inter, intra)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation of each row of ``a`` with the same row of ``b``."""
    a, b = (each - each.mean(dim=1, keepdim=True) for each in (a, b))
    correlation: Tensor = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)
    return correlation


class DistParams(DistillationParams):
    """Weights of the two parts, and the temperature of both predictions."""

    inter_weight: float = Field(2.0, ge=0)
    intra_weight: float = Field(2.0, ge=0)
    temperature: float = Field(4.0, gt=0)


class DistTask(Task):
    """Correlations between the student's and the teacher's predictions."""

    needs_teacher_logits = True

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE + inter_weight and intra_weight times 1 - correlation."""
        student_BC = model(batch.x)
        ce = label_cross_entropy(student_BC, batch.targets)
        parts = correlation_loss(student_BC, batch.teacher_logits, self.params.temperature)
        loss = self.params.label_weight * ce
        loss = loss + self.params.inter_weight * parts.inter
        loss = loss + self.params.intra_weight * parts.intra
        return StepOutput(loss, detached(ce=ce, **parts._asdict()))


def _settings(pair: _pairs.Pair) -> Overrides:
    return {"params": {"temperature": 1.0}} if pair.dataset == "imagenet" else {}


METHOD = Method(
    card=MethodCard(
        title="DIST",
        family="distillation",
        summary="Maximises the correlation of predictions with the teacher's, over the classes of "
        "each image and over the images for each class, whatever their scale.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + T^2 \left[\mathtt{inter\_weight}\, "
            r"\mathrm{mean}_b (1 - \rho(p_b^s, p_b^t)) + \mathtt{intra\_weight}\, \mathrm{mean}_c "
            r"(1 - \rho(p_{\cdot c}^s, p_{\cdot c}^t))\right], \quad T = \mathtt{temperature}"
        ),
        **cite("huang2022knowledge"),
        notes=(
            "Both parts have weight 2, at temperature 4 on CIFAR and 1 on ImageNet, as released; "
            "the factor T^2 is in the code only. The paper's beta is inter_weight, its gamma "
            "intra_weight; the code has one more factor for both.",
            "The released training on CIFAR is that of the other methods. On ImageNet it has "
            "batch size 256, learning rate 0.1, Nesterov momentum, and no weight decay on "
            "BatchNorm and biases; the recipe trains like that of KD, with batch size 512, "
            "learning rate 0.2, plain momentum and weight decay on all weights.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "ori_loss_weight",
            "inter_weight": "beta",
            "intra_weight": "gamma",
            "temperature": "tau",
        },
    ),
    params=DistParams,
    task=DistTask,
    recipes=_pairs.recipes(_settings),
)
