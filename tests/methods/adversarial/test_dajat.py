"""dajat: its loss over all views, the views' BatchNorms and attack, the released settings."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, softmax

from harness.config import InnerAttackConfig
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.method import Batch, Task, TaskContext
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.inner_attack import pgd
from harness.training.schedules import InnerSchedule
from tests.methods.conftest import NUM_CLASSES

KL_WEIGHT, JS_WEIGHT, SMOOTHING = 5.0, 3.0, 0.1


@pytest.fixture
def normed() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten()]
    layers += [nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, NUM_CLASSES)]
    network = nn.Sequential(*layers).double()
    return disturbed(network)


def disturbed(network: nn.Module) -> nn.Module:
    """Change the parameters and statistics of all BatchNorms from their initial values."""
    for layer in norms(network):
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            tensor.data += torch.rand_like(tensor)
    return network


def norms(network: nn.Module) -> list[nn.Module]:
    return [each for each in network.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]


@pytest.fixture
def viewed(batch: Batch) -> Batch:
    """A batch with two additional views, all attacked."""
    for _ in range(2):
        x = torch.rand_like(batch.x)
        x_adv = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
        batch.others += (Batch(x, batch.y, batch.index, batch.epoch, x_adv),)
    return batch


def make(network: nn.Module, **params: object) -> Task:
    method = METHODS.get("dajat")
    weights = {"kl_weight": KL_WEIGHT, "js_weight": JS_WEIGHT, "label_smoothing": SMOOTHING}
    context = TaskContext(
        num_classes=NUM_CLASSES,
        epochs=4,
        device=torch.device("cpu"),
        student=network,
    )
    return method.task(method.params(**(weights | params)), context)


@pytest.fixture
def task(normed: nn.Module) -> Task:
    """A task with BatchNorms for two views, which differ from those of the network."""
    task = make(normed)
    disturbed(task.norms)
    return task


def for_views(network: nn.Module, task: Task) -> nn.Module:
    """A copy of the network with the views' BatchNorms."""
    copied = deepcopy(network)
    for layer, own in zip(norms(copied), task.norms, strict=True):
        layer.load_state_dict(own.state_dict())
    return copied


def plain_loss(base: nn.Module, augmented: nn.Module, batch: Batch) -> Tensor:
    """The loss, term by term."""
    views = [(base, batch), *((augmented, other) for other in batch.others)]
    total, predictions = torch.zeros((), dtype=torch.float64), []
    for network, view in views:
        clean, adv = network(view.x), network(view.x_adv)
        predictions.append(softmax(clean, 1))
        for row, label in zip(log_softmax(clean, 1), view.y.tolist(), strict=True):
            for k in range(NUM_CLASSES):
                target = 1 - SMOOTHING if k == label else SMOOTHING / (NUM_CLASSES - 1)
                total = total - target * row[k] / len(clean) / len(views)
        kl = kl_div(log_softmax(adv, 1), softmax(clean, 1), reduction="batchmean")
        total = total + KL_WEIGHT * kl / len(views)
    mean = sum(predictions) / len(views)
    for probabilities in predictions:
        apart = kl_div(mean.log(), probabilities, reduction="batchmean")
        total = total + JS_WEIGHT * apart / len(views)
    return total


def test_loss_and_gradients_are_those_of_a_network_for_each_set_of_norms(
    normed: nn.Module, viewed: Batch, task: Task
) -> None:
    base, augmented = deepcopy(normed), for_views(normed, task)
    expected = plain_loss(base, augmented, viewed)
    output = task.loss(normed, viewed)
    torch.testing.assert_close(output.loss, expected)
    parts = output.parts
    summed = parts["ce"] + KL_WEIGHT * parts["kl"] + JS_WEIGHT * parts["js"]
    torch.testing.assert_close(summed, expected.detach())
    output.loss.backward()
    expected.backward()
    own = {id(each) for layer in norms(normed) for each in layer.parameters()}
    for ours, of_base, of_views in zip(
        normed.parameters(), base.parameters(), augmented.parameters(), strict=True
    ):
        expected_gradient = of_base.grad if id(ours) in own else of_base.grad + of_views.grad
        torch.testing.assert_close(ours.grad, expected_gradient)
    expected_gradients = [each.grad for layer in norms(augmented) for each in layer.parameters()]
    torch.testing.assert_close([each.grad for each in task.norms.parameters()], expected_gradients)


def test_each_set_of_statistics_is_moved_by_its_own_views(
    normed: nn.Module, viewed: Batch, task: Task
) -> None:
    base, augmented = deepcopy(normed), for_views(normed, task)
    task.loss(normed, viewed)
    plain_loss(base, augmented, viewed)
    for theirs, expected in ((norms(normed), norms(base)), (task.norms, norms(augmented))):
        for layer, right in zip(theirs, expected, strict=True):
            torch.testing.assert_close(layer.state_dict(), right.state_dict())
    assert [int(layer.num_batches_tracked) for layer in task.norms] == [4, 4]


def test_weights_are_perturbed_by_the_images_alone_without_smoothing(
    normed: nn.Module, viewed: Batch, task: Task
) -> None:
    before = deepcopy(task.norms.state_dict())
    found = task.perturbation_loss(deepcopy(normed), viewed)
    alone = make(normed, views=0, js_weight=0.0, label_smoothing=0.0)
    viewed.others = ()
    torch.testing.assert_close(found, alone.loss(deepcopy(normed), viewed).loss)
    assert all(torch.equal(before[name], t) for name, t in task.norms.state_dict().items())


class View:
    """A stand-in for ``LookaheadStep`` that can only attack."""

    def __init__(self, task: Task, network: nn.Module) -> None:
        self.task, self.network = task, network

    def attack(self, batch: Batch) -> Tensor:
        objective = self.task.attack_objective(self.network, batch)
        assert objective is not None
        inner, config = InnerSchedule(0.1, 0.05, 5), InnerAttackConfig(start="gaussian", eps=0.1)
        noise = torch.Generator().manual_seed(0)
        return pgd(self.network, objective, batch.x, inner, config, noise)


def test_views_are_attacked_through_their_own_norms(
    normed: nn.Module, viewed: Batch, task: Task
) -> None:
    normed.eval()
    expected_network = for_views(normed, task).eval()
    before = deepcopy(normed.state_dict())
    task.before_attack(viewed, View(task, normed))
    for other in viewed.others:
        expected = View(task, expected_network).attack(other)
        torch.testing.assert_close(other.x_adv, expected)
        assert (other.x_adv - other.x).abs().max() <= 0.1 + 1e-9
        through_the_images = View(task, normed).attack(other)
        assert not torch.allclose(other.x_adv, through_the_images)
    assert all(torch.equal(before[name], t) for name, t in normed.state_dict().items())


def test_norms_return_to_their_places_after_an_error(
    normed: nn.Module, viewed: Batch, task: Task
) -> None:
    places = [id(each) for each in [*normed.parameters(), *task.parameters()]]
    calls = iter(range(9))

    def failing(x: Tensor) -> Tensor:
        if next(calls) == 3:
            raise ZeroDivisionError
        return normed(x)

    with pytest.raises(ZeroDivisionError):
        task.loss(failing, viewed)
    assert [id(each) for each in [*normed.parameters(), *task.parameters()]] == places


def test_a_batch_without_its_views_is_an_error(normed: nn.Module, batch: Batch, task: Task) -> None:
    with pytest.raises(RuntimeError, match=r"this batch has 0 further views, not 2"):
        task.loss(normed, batch)


@pytest.fixture
def trained(tmp_path: Path) -> RunDirectory:
    options = {
        "results": tmp_path,
        "device": "cpu",
        "data.train_limit": 64,
        "training.epochs": 2,
        "training.batch_size": 32,
        "training.attack.steps": 2,
        "training.monitor.every": 0,
        "evaluation.limit": 2,
        "evaluation.attacks": (),
    }
    config = resolve("dajat", options=options)
    run(config, Reporter(quiet=True))
    return RunDirectory(tmp_path, config.run_id)


def test_the_views_norms_train_and_are_kept_in_the_checkpoint_alone(trained: RunDirectory) -> None:
    assert all(record["parts"]["js"] > 0 for record in trained.epochs())
    kept = torch.load(trained.checkpoint_path, weights_only=True)
    views = {name: tensor for name, tensor in kept["task"].items() if name.endswith("weight")}
    assert views
    assert all(not torch.equal(tensor, torch.ones_like(tensor)) for tensor in views.values())
    model = kept["model"]
    network = {name: t for name, t in model.items() if name.endswith("num_batches_tracked")}
    assert {int(t) for t in network.values()} == {2 * 2 * 2}
    assert {int(t) for name, t in kept["task"].items() if name.endswith("num_batches_tracked")} == {
        2 * 2 * 4
    }
    result = torch.load(trained.model_path, weights_only=True)["state_dict"]
    assert result.keys() == model.keys()
