"""DKL-KD: the decoupled KL divergence as a distillation loss, asymmetric (Eqs. 5 and 7)."""

from __future__ import annotations

from torch import Tensor

from harness.config import merge
from harness.method import Batch, Method, MethodCard
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods.distillation._decoupled import DecoupledKdParams, DecoupledKdTask
from methods.distillation.ikl_kd import SMALL_CHANGES, settings
from methods.losses.divergence import DecoupledParts, ikl_loss


class DklKdTask(DecoupledKdTask):
    """The weighted MSE counts in the loss without a gradient; the soft cross-entropy trains."""

    def divergence(self, batch: Batch, student_BC: Tensor, weights_BC: Tensor) -> DecoupledParts:
        """Eq. 7: as IKL-KD, but the weighted MSE has a gradient only into the fixed teacher."""
        temperature = self.params.temperature
        parts = ikl_loss(batch.teacher_logits, student_BC, weights_BC, temperature=temperature)
        return parts._replace(wmse=parts.wmse.detach())


def _settings(pair: _pairs.Pair) -> Overrides:
    return merge(settings(pair), {"params": {"global_information": False}})


METHOD = Method(
    card=MethodCard(
        title="DKL-KD",
        family="distillation",
        summary="Writes the KL divergence as a weighted MSE plus a soft cross-entropy; with a "
        "fixed teacher the weighted MSE trains nothing, which IKL fixes.",
        formula=(
            r"\mathtt{label\_weight}\, \mathrm{CE}(s, y) + \min(e / \mathtt{warmup\_epochs}, 1) "
            r"\left[\frac{\mathtt{wmse\_weight}}{4} \sum_{j,k} w_j w_k (\Delta t_{jk} - "
            r"\mathcal{S}(\Delta s_{jk}))^2 - \mathtt{ce\_weight} \sum_j p_t^j \log p_s^j\right]"
        ),
        **cite("cui2024decoupled"),
        notes=(
            "No table has a row for this method; it is the baseline that shows the effect of "
            "broken asymmetry. Its recipes are those of ikl-kd for each pair, named after the "
            "pair's table, without global information.",
            "wmse_weight and the settings of the class weights change the value of the loss but "
            "not the training. The gradient is that of KD at kd_weight = ce_weight / "
            "temperature^2.",
            "Eq. 5 weights each sample by its own prediction at temperature 1, the default here.",
        ),
        needs_teacher=True,
    ),
    params=DecoupledKdParams,
    task=DklKdTask,
    recipes=_pairs.recipes(_settings, small_changes=SMALL_CHANGES),
)
