"""GKL: IKL whose class weights are raised to a power, the authors' later generalisation."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from harness.config import merge
from harness.method import Method, MethodCard
from methods._papers import cite
from methods._recipes import by_dataset, growing_epsilon
from methods.adversarial._decoupled import RELEASED_ATTACK_WEIGHTS
from methods.adversarial.ikl import IklParams, IklTask
from methods.losses.divergence import DecoupledParts, gkl_loss


class GklParams(IklParams):
    """The parameters of IKL, and the power in [0, 1] of the class weights."""

    ce_weight: float = Field(4.0, ge=0)
    temperature: float = Field(1.0, gt=0)
    power: float = Field(0.4, ge=0, le=1)


class GklTask(IklTask):
    """IKL with flattened class weights in training; its attack is that of IKL, as released."""

    def divergence(self, clean_BC: Tensor, adv_BC: Tensor, y_B: Tensor) -> DecoupledParts:
        """Eq. 6 with class weights raised to a power, normalised over the batch, unweighted."""
        return gkl_loss(clean_BC, adv_BC, self.class_means.of(y_B), self.params.power)


RELEASED = {
    **RELEASED_ATTACK_WEIGHTS,
    "cifar10": merge(
        RELEASED_ATTACK_WEIGHTS["cifar10"], {"params": {"power": 0.2, "temperature": 4.0}}
    ),
}

METHOD = Method(
    card=MethodCard(
        title="GKL-AT",
        family="adversarial",
        summary="IKL with class weights raised to a power below one, which increases the weight of "
        "classes with a small mean probability.",
        formula=(
            r"\mathrm{CE}(o_m, y) + \mathtt{wmse\_weight} \frac{\sum_i \frac14 \sum_{j,k} "
            r"q_i^j q_i^k (\Delta m_{i,jk} - \Delta n_{i,jk})^2}{\sum_i \left(\sum_j "
            r"q_i^j\right)^2} - \mathtt{ce\_weight} \sum_j \mathcal{S}(s_m^j) \log s_n^j, \quad "
            r"q_i = \mathcal{S}(\bar s_{y_i})^{\mathtt{power}}"
        ),
        **cite("cui2026generalized"),
        notes=(
            "The reference paper's tables have no row for this loss, which is from the second "
            "version of its released code.",
            "The weighted MSE is normalised once over the batch, not sample by sample; at power 1 "
            "it is that of IKL.",
            "The released CIFAR-10 script ends before its temperature option, so it uses the "
            "default temperature 4 with power 0.2; so does the recipe.",
            "The attack always uses power 1, as released.",
        ),
        released_names={
            "wmse_weight": "beta",
            "ce_weight": "alpha",
            "temperature": "T",
            "power": "gamma",
        },
    ),
    params=GklParams,
    task=GklTask,
    recipes=by_dataset(growing_epsilon, RELEASED),
)
