"""DML: two students learn from each other (Zhang et al., 2018)."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from harness.method import Batch, Forward, Method, MethodCard, StepOutput, Task, TaskContext
from harness.models import build_model
from harness.models.normalize import Normalized
from methods import _pairs
from methods._papers import cite
from methods._recipes import Overrides
from methods._steps import detached
from methods.distillation._task import DistillationParams
from methods.losses.cross_entropy import label_cross_entropy
from methods.losses.divergence import kl_divergence


class DmlParams(DistillationParams):
    """The other student's network, and the weight of both divergences."""

    peer_arch: str = "resnet56"
    mutual_weight: float = Field(1.0, ge=0)


class DmlTask(Task):
    """Both students learn from labels and from each other.

    The other student belongs to the task: the engine optimises it together with the trained model
    and stores it in checkpoints. It is not part of the result.
    """

    def __init__(self, params: DmlParams, context: TaskContext) -> None:
        """Build the other student, which normalises images as the first one does."""
        super().__init__(params, context)
        peer: nn.Module = build_model(
            params.peer_arch, context.num_classes, context.in_channels, context.image_size
        )
        if isinstance(context.student, Normalized):
            statistics = (
                each.flatten().tolist() for each in (context.student.mean, context.student.std)
            )
            peer = Normalized(peer, *statistics)
        self.peer = peer

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """label_weight (CE + the other's CE) + mutual_weight (KL from the other + its KL)."""
        student_BC, peer_BC = model(batch.x), self.peer(batch.x)
        ce = label_cross_entropy(student_BC, batch.targets)
        peer_ce = label_cross_entropy(peer_BC, batch.targets)
        kl = kl_divergence(peer_BC.detach(), student_BC)
        peer_kl = kl_divergence(student_BC.detach(), peer_BC)
        loss = self.params.label_weight * (ce + peer_ce)
        loss = loss + self.params.mutual_weight * (kl + peer_kl)
        return StepOutput(loss, detached(ce=ce, kl=kl, peer_ce=peer_ce, peer_kl=peer_kl))


def _settings(pair: _pairs.Pair) -> Overrides:
    return {"teacher": None, "params": {"peer_arch": pair.teacher}}


METHOD = Method(
    card=MethodCard(
        title="DML",
        family="distillation",
        summary="Trains two students from scratch on labels and on each other's predictions.",
        formula=(
            r"\mathtt{label\_weight} \left[\mathrm{CE}(s, y) + \mathrm{CE}(p, y)\right] + "
            r"\mathtt{mutual\_weight} \left[D_{\mathrm{KL}}(\bar p \,\|\, s) + "
            r"D_{\mathrm{KL}}(\bar s \,\|\, p)\right], \quad p = \mathtt{peer\_arch}(x), \quad "
            r"\bar{\cdot} \text{ without gradient}"
        ),
        **cite("zhang2018deep"),
        notes=(
            "The other student has the architecture of the pair's teacher, and is trained with the "
            "same optimiser. It is not evaluated; its losses are logged.",
            "The paper updates the students in turn, the second with the first one's new "
            "predictions; here both take one step from the same predictions.",
            "Training settings are those of the other methods; the paper trains for 200 epochs at "
            "learning rate 0.1 with Nesterov momentum.",
        ),
    ),
    params=DmlParams,
    task=DmlTask,
    recipes=_pairs.recipes(
        _settings,
        pairs=_pairs.CIFAR_PAIRS,
        small_changes={"teacher": None, "params": {"peer_arch": "resnet20"}},
    ),
)
