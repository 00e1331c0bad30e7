"""MLKD against a plain transcription of its levels."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.method import Batch
from methods.distillation.mlkd import lower_half
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import LeafStudent, Step

TEMPERATURES = (4, 3, 5, 2, 6)


class TwoViews(LeafStudent):
    """A student with separate leaf logits for the image and its view."""

    def __init__(self, step: Step) -> None:
        torch.nn.Module.__init__(self)
        self.image = step.student.outputs.logits
        self.view = torch.randn_like(self.image).requires_grad_()
        self.images = step.batch.x

    def forward(self, x: Tensor) -> Tensor:
        return self.image if x is self.images else self.view


@pytest.fixture
def model(step: Step) -> TwoViews:
    view = Batch(step.batch.x.flip(3), step.batch.y, step.batch.index, epoch=5)
    step.batch.others = (view,)
    return TwoViews(step)


def kl(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    p, q = (t / temperature).softmax(1), (s / temperature).softmax(1)
    return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()


def products(s: Tensor, t: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The losses between images and between classes, as loops over pairs."""
    p, q = (t / temperature).softmax(1), (s / temperature).softmax(1)
    totals = []
    for a, b in ((p, q), (p.T, q.T)):
        number = range(len(a))
        square = sum((a[i] @ a[j] - b[i] @ b[j]) ** 2 for i in number for j in number)
        totals.append(square / len(a))
    return totals[0], totals[1]


@pytest.mark.parametrize("repeated", [(2.0, 6.0), ()])
def test_loss_is_the_plain_one(step: Step, model: TwoViews, repeated: tuple[float, ...]) -> None:
    """With and without the temperatures at which the released code reuses the image's logits."""
    s, v, t, y = model.image, model.view, step.batch.teacher_logits, step.batch.y
    with torch.no_grad():
        t_view = step.teacher(step.batch.others[0].x)
    # Six images, seven classes: three images and four classes are not above the median.
    images, classes = 3 / 6, 4 / 7
    total = torch.zeros((), dtype=torch.float64)
    for temperature in TEMPERATURES:
        between_images, between_classes = products(s, t, temperature)
        total = total + images * (kl(s, t, temperature) + between_images)
        total = total + classes * between_classes
        pair = (s, t) if temperature in repeated else (v, t_view)
        total = total + kl(*pair, temperature)
    expected = 0.3 * (cross_entropy(s, y) + cross_entropy(v, y)) + 0.7 * total
    params = {"label_weight": 0.3, "kd_weight": 0.7, "image_temperatures": repeated}
    task = step.make_task("mlkd", **params)
    assert_same_loss(task.loss(model, step.batch).loss, expected, s, v)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("temperatures=[]", r"params.temperatures = \[\] is refused"),
        ("temperatures=[2, 6, 0]", r"params.temperatures.2 = 0 is refused"),
        ("temperatures=[2, 6, -2]", r"params.temperatures.2 = -2 is refused"),
        (
            "image_temperatures=[2, 7]",
            r"image_temperatures has 7, .* the temperatures 4, 3, 5, 2, 6: leave it out, or add",
        ),
    ],
)
def test_temperatures_that_cannot_be_used_are_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve("mlkd", assignments=[f"params.{setting}"])


def test_lower_half() -> None:
    assert float(lower_half(torch.tensor([1.0, 2.0, 3.0, 4.0]))) == 0.5
    assert float(lower_half(torch.tensor([1.0, 2.0, 3.0]))) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("recipe", "epochs", "rate"),
    [
        ("table5/resnet56-resnet20", 240, 0.025),
        ("table7/vgg13-mobilenet-v2", 480, 0.01),
        ("table7/resnet32x4-shufflenet-v2", 960, 0.01),
    ],
)
def test_recipes_have_the_released_schedule(recipe: str, epochs: int, rate: float) -> None:
    training = resolve("mlkd", recipe=recipe).training
    assert (training.epochs, training.optimizer.lr, training.batch_size) == (epochs, rate, 64)
    assert training.optimizer.milestones == (150, 180, 210)
