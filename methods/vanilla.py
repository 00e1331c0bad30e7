"""Natural training: cross-entropy on clean images, the yardstick without any defence."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task
from methods import _pairs
from methods._papers import cite
from methods._recipes import by_dataset, natural
from methods.losses.divergence import float32_or_wider


class VanillaParams(Params):
    """Natural training has no parameters."""


class VanillaTask(Task):
    """Cross-entropy on clean images."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o, y), a mean over the batch."""
        loss = cross_entropy(float32_or_wider(model(batch.x)), batch.y)
        return StepOutput(loss, {"ce": loss.detach()})


METHOD = Method(
    card=MethodCard(
        title="Natural training",
        family="natural",
        summary="Cross-entropy on clean images: high clean accuracy and no robustness to attacks.",
        formula=r"\mathrm{CE}(o, y) = -\log s^y",
        **cite("zagoruyko2016wide"),
        notes=(
            "Cited for the network and its natural training. The schedule here is the cosine, over "
            "200 epochs, so that it compares with the adversarial rows.",
            "Recipes such as table5/resnet56 train teachers and students of the distillation "
            "tables by labels alone, as the distillation literature does.",
        ),
    ),
    params=VanillaParams,
    task=VanillaTask,
    recipes={**by_dataset(natural), **_pairs.natural_recipes()},
)
