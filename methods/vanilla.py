"""Natural training: cross-entropy on clean images, the baseline without a defence."""

from __future__ import annotations

from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task
from methods import _pairs
from methods._papers import cite
from methods._recipes import by_dataset, natural
from methods._steps import detached
from methods.losses.cross_entropy import label_cross_entropy


class VanillaParams(Params):
    """Natural training has no parameters."""


class VanillaTask(Task):
    """Cross-entropy on clean images."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """CE(o, y), a mean over the batch."""
        loss = label_cross_entropy(model(batch.x), batch.targets)
        return StepOutput(loss, detached(ce=loss))


METHOD = Method(
    card=MethodCard(
        title="Natural training",
        family="natural",
        summary="Minimises cross-entropy on clean images, which gives high clean accuracy but no "
        "robustness to attacks.",
        formula=r"\mathrm{CE}(o, y) = -\log s^y",
        **cite("zagoruyko2016wide"),
        notes=(
            "The paper is cited for the model and its natural training. The schedule here is a "
            "cosine over 200 epochs, comparable to the adversarial rows.",
            "Recipes such as table5/resnet56 train teachers and students of the distillation "
            "tables on labels only, as the distillation literature does.",
        ),
    ),
    params=VanillaParams,
    task=VanillaTask,
    recipes={**by_dataset(natural), **_pairs.natural_recipes()},
)
