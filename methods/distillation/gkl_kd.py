"""GKL-KD: IKL-KD whose class weights are raised to a power, the authors' later generalisation."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field
from torch import Tensor

from harness.config import merge
from harness.method import Batch, Method, MethodCard
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods.distillation._decoupled import DecoupledKdParams, DecoupledKdTask
from methods.distillation.ikl_kd import SMALL_CHANGES
from methods.losses.divergence import DecoupledParts, gkl_loss


class GklKdParams(DecoupledKdParams):
    """The parameters of IKL-KD, and the power in [0, 1] of the class weights."""

    sample_temperature: float = Field(4.0, gt=0)
    class_temperature: float = Field(4.0, gt=0)
    power: float = Field(0.1, ge=0, le=1)


class GklKdTask(DecoupledKdTask):
    """IKL-KD with flattened class weights that are normalised over the whole batch."""

    def divergence(self, batch: Batch, student_BC: Tensor, weights_BC: Tensor) -> DecoupledParts:
        """GKL, with the teacher as the reference."""
        power, temperature = self.params.power, self.params.temperature
        return gkl_loss(
            batch.teacher_logits, student_BC, weights_BC, power, temperature=temperature
        )


class Setting(NamedTuple):
    """A pair's released configuration."""

    wmse_weight: float
    ce_weight: float
    power: float
    global_information: bool = True


RELEASED = {
    "resnet34-resnet18": Setting(0.5, 1.0, 0.6),
    "resnet50-mobilenet-v1": Setting(1.0, 4.0, 0.5),
    "resnet56-resnet20": Setting(4.0, 1.0, 0.2),
    "resnet110-resnet32": Setting(4.0, 1.0, 0.1, global_information=False),
    "resnet32x4-resnet8x4": Setting(16.0, 1.0, 0.05),
    "wrn-40-2-wrn-16-2": Setting(20.0, 3.0, 0.3, global_information=False),
    "wrn-40-2-wrn-40-1": Setting(12.0, 1.0, 0.3, global_information=False),
    "vgg13-vgg8": Setting(8.0, 1.0, 0.2),
    "resnet32x4-shufflenet-v1": Setting(8.0, 1.0, 0.0),
    "wrn-40-2-shufflenet-v1": Setting(8.0, 1.0, 0.0, global_information=False),
    "vgg13-mobilenet-v2": Setting(12.0, 4.0, 0.1),
    "resnet50-mobilenet-v2": Setting(8.0, 1.0, 0.05),
    "resnet32x4-shufflenet-v2": Setting(12.0, 3.0, 0.1),
}


def _settings(pair: _pairs.Pair) -> Overrides:
    params: Overrides = RELEASED[pair.name]._asdict()
    if pair.dataset == "imagenet":
        temperatures = {"temperature": 1.0, "class_temperature": 1.0, "sample_temperature": 1.0}
        params |= {**temperatures, "warmup_epochs": 5}
    return {"params": params}


METHOD = Method(
    card=MethodCard(
        title="GKL-KD",
        family="distillation",
        summary="IKL-KD with class weights raised to a power below one, which increases the weight "
        "of classes with a small probability.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \min(e / \mathtt{warmup\_epochs}, 1) "
            r"\left[\mathtt{wmse\_weight} \frac{\sum_i \frac14 \sum_{j,k} q_i^j q_i^k (\Delta "
            r"t_{i,jk} - \Delta s_{i,jk})^2}{\sum_i \left(\sum_j q_i^j\right)^2} - "
            r"\mathtt{ce\_weight} \sum_j p_t^j \log p_s^j\right], \quad q = w^{\mathtt{power}}"
        ),
        **cite("cui2026generalized"),
        notes=(
            "The reference paper's tables have no row for this method, which is from the second "
            "version of its released code. Its recipes are named after the pairs' tables.",
            "Global information is on or off as released for each pair. At power 0 weights are "
            "uniform and it changes nothing.",
            "The weighted MSE is normalised once over the batch; the released code normalises it "
            "over each device's part of the batch.",
            "The warm-up takes 20 epochs on CIFAR and, by a released default, 5 on ImageNet.",
            "The released T2, 4 on CIFAR and 1 on ImageNet, is sample_temperature and "
            "class_temperature here.",
        ),
        needs_teacher=True,
        released_names={
            "label_weight": "CE_WEIGHT",
            "wmse_weight": "BETA",
            "ce_weight": "ALPHA",
            "temperature": "T",
            "class_temperature": "T2",
            "global_information": "GI",
            "power": "GAMMA",
            "warmup_epochs": "WARMUP",
        },
    ),
    params=GklKdParams,
    task=GklKdTask,
    recipes=_pairs.recipes(
        _settings, small_changes=merge(SMALL_CHANGES, {"params": {"global_information": True}})
    ),
)
