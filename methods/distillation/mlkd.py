"""MLKD: predictions match for each image, between images and between classes (Jin et al., 2023)."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import softmax

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, Task
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.logits import kd_loss
from methods.losses.precision import exact_matmul, float32_or_wider


class LevelParts(NamedTuple):
    """The three levels of MLKD, unweighted scalars >= 0.

    Attributes:
        instance: KL divergences of each image's predictions.
        batch: squared distances between the products of all pairs of images.
        classes: squared distances between the products of all pairs of classes.
    """

    instance: Tensor
    batch: Tensor
    classes: Tensor


def batch_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """|P(t) P(t)^T - P(s) P(s)^T|^2 / B, P = softmax(. / T).

    Source: Jin et al., "Multi-level logit distillation", CVPR 2023, Eqs. 6-7.

    Args:
        student_BC: logits [B, C].
        teacher_BC: logits [B, C]; no gradient flows into them.
        temperature: T > 0.

    Returns:
        A scalar >= 0.
    """
    student, teacher = _predictions(student_BC, teacher_BC, temperature)
    return _gram_distance(student, teacher)


def class_loss(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """|P(t)^T P(t) - P(s)^T P(s)|^2 / C; see ``batch_loss`` (Eqs. 8-9)."""
    student, teacher = _predictions(student_BC, teacher_BC, temperature)
    return _gram_distance(student.T, teacher.T)


def _predictions(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> tuple[Tensor, ...]:
    return tuple(
        softmax(float32_or_wider(logits) / temperature, dim=1)
        for logits in (student_BC, teacher_BC.detach())
    )


def _gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    distance = exact_matmul(teacher, teacher.T) - exact_matmul(student, student.T)
    return distance.square().sum() / len(student)


def lower_half(values: Tensor) -> Tensor:
    """Return the share of values [N] not above their median, a scalar of about one half."""
    values = float32_or_wider(values)
    return (values <= values.quantile(0.5)).to(values.dtype).mean()


class MlkdParams(DistillationParams):
    """Weights of labels and of the three levels, and the temperatures that are summed over.

    At ``image_temperatures`` the view's instance term uses the image's logits.
    """

    label_weight: float = Field(0.1, ge=0)
    kd_weight: float = Field(0.9, ge=0)
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (4.0, 3.0, 5.0, 2.0, 6.0), min_length=1
    )
    image_temperatures: tuple[float, ...] = (2.0, 6.0)

    @model_validator(mode="after")
    def _image_temperatures_are_used(self) -> Self:
        for each in self.image_temperatures:
            if each not in self.temperatures:
                raise ValueError(
                    f"image_temperatures has {each:g}, which is not one of the temperatures "
                    f"{', '.join(f'{t:g}' for t in self.temperatures)}: leave it out, or add it "
                    "to temperatures"
                )
        return self


class MlkdTask(Task):
    """Distil an image's logits at three levels, and those of an AutoAugment view at one."""

    needs_teacher_logits = True
    autoaugmented_views = 1

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight (CE of image and view) + kd_weight (instance + batch + classes)."""
        (view,) = batch.others
        image_BC, view_BC = model(batch.x), model(view.x)
        teacher_BC = batch.teacher_logits
        ce = label_cross_entropy(image_BC, batch.y) + label_cross_entropy(view_BC, batch.y)
        parts = self._levels(image_BC, teacher_BC)
        strong = self._view(image_BC, teacher_BC, view_BC, self._teach(view.x))
        parts = parts._replace(instance=parts.instance + strong)
        loss = self.params.label_weight * ce + self.params.kd_weight * torch.stack(parts).sum()
        return StepOutput(loss, detached(ce=ce, **parts._asdict()))

    @torch.no_grad()
    def _teach(self, x: Tensor) -> Tensor:
        if self.context.teacher is None:
            raise RuntimeError("mlkd runs its teacher on the views, but has no teacher")
        logits_BC: Tensor = self.context.teacher(x)
        return logits_BC

    def _levels(self, student_BC: Tensor, teacher_BC: Tensor) -> LevelParts:
        """Return the images' levels, summed over temperatures, times shares of ``lower_half``."""
        predictions_BC = softmax(float32_or_wider(teacher_BC), dim=1)
        images = lower_half(predictions_BC.max(dim=1).values)
        classes = lower_half(predictions_BC.sum(dim=0))
        levels = ((kd_loss, images), (batch_loss, images), (class_loss, classes))
        return LevelParts(
            *(
                share
                * torch.stack(
                    [level(student_BC, teacher_BC, t) for t in self.params.temperatures]
                ).sum()
                for level, share in levels
            )
        )

    def _view(
        self, image_BC: Tensor, teacher_BC: Tensor, view_BC: Tensor, teacher_view_BC: Tensor
    ) -> Tensor:
        """Return the view's instance level; ``image_temperatures`` use the image's logits."""
        repeated = self.params.image_temperatures
        terms = [
            kd_loss(image_BC, teacher_BC, t)
            if t in repeated
            else kd_loss(view_BC, teacher_view_BC, t)
            for t in self.params.temperatures
        ]
        return torch.stack(terms).sum()


LONGER = {
    "resnet32x4-shufflenet-v1": 960,
    "resnet32x4-shufflenet-v2": 960,
    "wrn-40-2-shufflenet-v1": 480,
    "vgg13-mobilenet-v2": 480,
    "resnet50-mobilenet-v2": 480,
}


def _settings(pair: _pairs.Pair) -> Overrides:
    rate = 0.01 if pair.student in _pairs.LIGHT else 0.025
    training = {"epochs": LONGER.get(pair.name, 240), "optimizer": {"lr": rate}}
    return {"training": training}


METHOD = Method(
    card=MethodCard(
        title="MLKD",
        family="distillation",
        summary="Matches the teacher's predictions at several temperatures for each image, in "
        "their products between images, and in those between classes.",
        formula=(
            r"\mathtt{label\_weight} \left[\mathrm{CE}(s, y) + \mathrm{CE}(\tilde s, y)\right] + "
            r"\mathtt{kd\_weight} \sum_{T \in \mathtt{temperatures}} \left[\rho_B T^2 "
            r"D_{\mathrm{KL}}(P_t \,\|\, P_s) + T^2 D_{\mathrm{KL}}(\tilde P_t \,\|\, \tilde "
            r"P_s) + \frac{\rho_B}{B} \|P_t P_t^\top - P_s P_s^\top\|^2 + \frac{\rho_C}{C} "
            r"\|P_t^\top P_t - P_s^\top P_s\|^2\right], \quad \tilde{\cdot} \text{ of the view}"
        ),
        **cite("jin2023multi"),
        notes=(
            "The paper uses only less confident images and classes. The released code, which is "
            "followed here, instead multiplies the mean over all of them by the share of the less "
            "confident ones, about one half: rho_B for images and rho_C for classes.",
            "At temperatures 2 and 6 the released "
            "code uses the image's logits again instead of the view's; "
            "params.image_temperatures=[] always uses the view's.",
            "The view is made by AutoAugment's CIFAR policy; the released code applies two "
            "operations of RandAugment and cuts out a square.",
            "As released, the learning rate is half of the other methods', except for MobileNetV2 "
            "and ShuffleNets, and training is up to four times as long with the same milestones.",
        ),
        needs_teacher=True,
        released_names={"label_weight": "CE_WEIGHT", "kd_weight": "KD_WEIGHT"},
    ),
    params=MlkdParams,
    task=MlkdTask,
    recipes=_pairs.recipes(_settings, pairs=_pairs.CIFAR_PAIRS),
)
