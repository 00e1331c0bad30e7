"""wang-dm, rebuffi, gowal, proxy and the generated-image recipes of ikl and score."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.experiment.resolve import resolve
from harness.method import Batch, Task
from harness.registry import METHODS

ROWS = {
    "wang-dm": [
        "table2/wang-dm-1m",
        "table2/wang-dm-50m",
        "table4/wang-dm-1m",
        "table4/wang-dm-20m",
        "table4/wang-dm-50m",
    ],
    "rebuffi": ["table2/rebuffi-1m", "table4/rebuffi-1m"],
    "gowal": ["table4/gowal-100m"],
    "proxy": ["table2/proxy-1m", "table4/proxy-10m"],
    "score": ["table2/score-1m", "cifar10-1m"],
    "ikl": ["table2/ikl-1m", "table2/ikl-50m", "table4/ikl-1m", "table4/ikl-20m"],
}
RECIPES = [(method, recipe) for method, recipes in ROWS.items() for recipe in recipes]


def transcribed(clean: Tensor, adv: Tensor, y: Tensor, beta: float, smoothing: float) -> Tensor:
    """Smoothed cross-entropy and KL, sample by sample."""
    total = torch.zeros((), dtype=clean.dtype)
    for n, a, label in zip(clean, adv, y, strict=True):
        p, q = n.exp() / n.exp().sum(), a.exp() / a.exp().sum()
        total = total - (1 - smoothing) * p[label].log() - smoothing * p.log().mean()
        total = total + beta * (p * (p / q).log()).sum()
    return total / len(y)


def assert_same(loss: Tensor, expected: Tensor, network: nn.Module) -> None:
    torch.testing.assert_close(loss, expected)
    parameters = list(network.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters, retain_graph=True),
        torch.autograd.grad(expected, parameters),
    )


@pytest.mark.parametrize("method", ["wang-dm", "rebuffi", "gowal"])
def test_loss_is_trades_with_smoothed_labels(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    params = METHODS.get(method).params()
    assert params.model_dump() == {
        "kl_weight": 5.0 if method == "wang-dm" else 6.0,
        "label_smoothing": 0.1,
    }
    loss = make_task(method, kl_weight=3.5, label_smoothing=0.2).loss(network, batch).loss
    clean, adv = network(batch.x), network(batch.adversarial)
    assert_same(loss, transcribed(clean, adv, batch.y, 3.5, 0.2), network)


def test_ikl_smooths_labels_where_it_is_asked(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    plain, smooth = (
        make_task("ikl", label_smoothing=share).loss(network, batch).loss for share in (0, 0.3)
    )
    log = network(batch.x).log_softmax(1)
    right = log.gather(1, batch.y[:, None]).mean()
    torch.testing.assert_close(smooth - plain, 0.3 * (right - log.mean()))


@pytest.mark.parametrize("loss", ["pgd", "trades"])
def test_proxy_trains_either_loss(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], loss: str
) -> None:
    task = make_task("proxy", loss=loss, kl_weight=2.0)
    clean, adv = network(batch.x), network(batch.adversarial)
    if loss == "trades":
        expected = transcribed(clean, adv, batch.y, 2.0, 0.0)
    else:
        expected = transcribed(adv, adv, batch.y, 0.0, 0.0)
    assert_same(task.loss(network, batch).loss, expected, network)


class Order(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.network(x)


def test_clean_images_pass_first_and_the_attack_computes_them_once(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    order, task = Order(network), make_task("wang-dm")
    task.loss(order, batch)
    assert [x is batch.x for x in order.seen] == [True, False]
    order.seen.clear()
    objective = task.attack_objective(order, batch)
    assert objective is not None
    clean, adv = network(batch.x).softmax(1), network(batch.adversarial)
    kl = (clean * (clean / adv.softmax(1)).log()).sum(1).mean()
    torch.testing.assert_close(objective(adv), kl)
    assert len(order.seen) == 1


@pytest.mark.parametrize(("method", "recipe"), RECIPES)
def test_a_row_asks_for_its_images(method: str, recipe: str) -> None:
    config = resolve(method, recipe=recipe)
    size = recipe.rpartition("-")[2]
    assert config.data.generated_name is not None
    assert config.data.generated_name.endswith(f"-{size}")
    assert config.data.name == ("cifar100" if recipe.startswith("table2") else "cifar10")
    assert config.data.generated_fraction == (0.5 if method == "proxy" else 0.7)
    assert config.data.generated_source
    assert config.model.arch == ("wrn-34-10" if method == "proxy" else "wrn-28-10-silu")
    assert config.training.attack is not None
    assert config.training.attack.eps == 8 / 255


def test_the_released_training() -> None:
    config = resolve("wang-dm", recipe="table2/wang-dm-1m")
    training, optimizer = config.training, config.training.optimizer
    assert (training.epochs, training.batch_size) == (400, 512)
    assert (optimizer.lr, optimizer.nesterov, optimizer.weight_decay) == (0.2, True, 5e-4)
    assert (optimizer.schedule, optimizer.pct_start) == ("onecycle", 0.025)
    assert (optimizer.cycle_momentum, optimizer.decay) == (True, "not-norm")
    assert training.attack is not None
    assert (training.attack.start, training.attack.model_mode) == ("uniform", "train-frozen")
    assert (training.attack.steps, training.attack.step_size) == (10, 2 / 255)
    averaging = training.averaging
    assert (averaging.kind, averaging.decay, averaging.buffers) == ("step", 0.995, "live")
    assert averaging.decay_warmup
    assert (config.data.rotation, config.data.val_size) == (15.0, 1024)
    assert config.model.normalize
    wide = resolve("rebuffi", recipe="table4/rebuffi-1m").training
    assert (wide.batch_size, wide.optimizer.lr) == (1024, 0.4)


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [("table2/ikl-50m", (12.0, 5.0, 4.0, 1.0)), ("table4/ikl-20m", (10.0, 3.0, 4.0, 0.0))],
)
def test_weights_of_the_authors_logs(recipe: str, weights: tuple[float, ...]) -> None:
    params: dict[str, Any] = resolve("ikl", recipe=recipe).params
    names = ("wmse_weight", "ce_weight", "temperature", "attack_wmse_weight")
    assert tuple(params[name] for name in names) == weights
    assert params["label_smoothing"] == 0.1


def test_two_sets_are_two_runs_and_two_places_of_one_are_not() -> None:
    ids = {
        resolve("wang-dm", recipe="table4/wang-dm-1m", assignments=[assignment]).run_id
        for assignment in ("data.generated=/a.npz", "data.generated=/b.npz")
    }
    assert len(ids) == 1
    other = resolve(
        "wang-dm", recipe="table4/wang-dm-1m", assignments=["data.generated_name=other"]
    )
    assert other.run_id not in ids


def test_ikl_passes_adversarial_images_first_and_its_card_says_so(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    order = Order(network)
    make_task("ikl").loss(order, batch)
    assert [x is batch.x for x in order.seen] == [False, True]
    (note,) = (note for note in METHODS.get("ikl").card.notes if "wang-dm" in note)
    assert "adversarial images pass before clean ones" in note


@pytest.mark.parametrize("method", ["wang-dm", "rebuffi", "gowal", "score"])
def test_cards_say_which_of_equal_epochs_is_kept(method: str) -> None:
    told = [note for note in METHODS.get(method).card.notes if "equally good" in note]
    assert len(told) == 1
