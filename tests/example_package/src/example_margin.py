"""A method in its own distribution: adversarial training on a squared hinge of the margin."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from harness.method import Batch, Forward, Method, MethodCard, Objective, Params, StepOutput, Task


class MarginParams(Params):
    """The margin by which the true logit must exceed the others."""

    margin: float = 2.0


def squared_hinge(logits_BC: Tensor, y_B: Tensor, margin: float) -> Tensor:
    """mean_B max(0, margin - (o_y - max_{j != y} o_j))^2, a scalar >= 0."""
    true = one_hot(y_B, logits_BC.shape[1]).bool()
    others_B = logits_BC.masked_fill(true, float("-inf")).amax(1)
    return (margin - (logits_BC[true] - others_B)).clamp_min(0).square().mean()


class MarginTask(Task):
    """The hinge loss on adversarial images, which the attack maximises."""

    def attack_objective(self, model: Forward, batch: Batch) -> Objective:
        """The hinge itself."""
        return lambda adv_BC: squared_hinge(adv_BC, batch.y, self.params.margin)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        """The hinge of the adversarial images."""
        loss = squared_hinge(model(batch.adversarial), batch.y, self.params.margin)
        return StepOutput(loss, {"hinge": loss.detach()})


def digits() -> dict[str, object]:
    """A small network on digits, attacked in ten steps of a quarter of the radius."""
    return {
        "data": {"name": "digits", "crop_padding": 1, "flip": False},
        "model": {"arch": "resnet8"},
        "training": {
            "epochs": 30,
            "batch_size": 64,
            "attack": {"eps": 0.15, "steps": 10, "step_size": 0.0375},
        },
        "evaluation": {"eps": 0.15},
    }


METHOD = Method(
    card=MethodCard(
        title="Margin AT",
        family="adversarial",
        summary="Adversarial training on a squared hinge of the margin.",
        formula=r"\max(0, \mathtt{margin} - (o_y - \max_{j \ne y} o_j))^2",
        paper="An example, of no paper",
        url="https://example.org",
        bibtex="@misc{example, title = {An example}}",
    ),
    params=MarginParams,
    task=MarginTask,
    recipes={"digits": digits},
)
