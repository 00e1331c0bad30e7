"""KD: the student matches the teacher's softened predictions (Hinton et al., 2015)."""

from __future__ import annotations

from pydantic import Field

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, Task
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.logits import kd_loss


class KdParams(DistillationParams):
    """Weights of the labels and of the teacher, and the temperature of both predictions."""

    label_weight: float = Field(0.1, ge=0)
    kd_weight: float = Field(0.9, ge=0)
    temperature: float = Field(4.0, gt=0)


class KdTask(Task):
    """The KL divergence between softened predictions."""

    needs_teacher_logits = True

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight CE(s, y) + kd_weight T^2 KL."""
        student_BC = model(batch.x)
        ce = label_cross_entropy(student_BC, batch.targets)
        kl = kd_loss(student_BC, batch.teacher_logits, self.params.temperature)
        loss = self.params.label_weight * ce + self.params.kd_weight * kl
        return StepOutput(loss, detached(ce=ce, kl=kl))


def _settings(pair: _pairs.Pair) -> Overrides:
    if pair.dataset == "imagenet":
        return {"params": {"label_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0}}
    return {}


METHOD = Method(
    card=MethodCard(
        title="KD",
        family="distillation",
        summary="Trains the student's predictions, softened by a temperature, to match the "
        "teacher's.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \mathtt{kd\_weight}\, T^2 "
            r"D_{\mathrm{KL}}(\mathrm{Softmax}(t / T) \,\|\, \mathrm{Softmax}(s / T)), "
            r"\quad T = \mathtt{temperature}"
        ),
        **cite("hinton2015distilling"),
        tables=(3, 5, 7),
        notes=(
            "On CIFAR the weights are 0.1 and 0.9 at temperature 4, on ImageNet 0.5 and 0.5 at "
            "temperature 1, as released with mdistiller.",
            "Tables 5 and 7 print the accuracy of the last epoch, Table 3 that of the best epoch "
            "on the test images.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "CE_WEIGHT",
            "kd_weight": "KD_WEIGHT",
            "temperature": "TEMPERATURE",
        },
    ),
    params=KdParams,
    task=KdTask,
    recipes=_pairs.recipes(_settings),
    recipe_notes=_pairs.last_epoch_note(),
)
