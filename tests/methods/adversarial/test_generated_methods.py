"""wang-dm, rebuffi, gowal, proxy and the generated-image recipes of ikl and score."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.method import Batch, Task
from harness.registry import METHODS
from tests.methods.conftest import Recorder, assert_same_loss

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
    assert_same_loss(loss, transcribed(clean, adv, batch.y, 3.5, 0.2), network)


def test_ikl_smooths_labels_by_its_parameter(
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
    task = make_task("proxy", loss=loss, **({"kl_weight": 2.0} if loss == "trades" else {}))
    clean, adv = network(batch.x), network(batch.adversarial)
    if loss == "trades":
        expected = transcribed(clean, adv, batch.y, 2.0, 0.0)
    else:
        expected = transcribed(adv, adv, batch.y, 0.0, 0.0)
    assert_same_loss(task.loss(network, batch).loss, expected, network)


def test_proxy_refuses_a_weight_that_its_loss_does_not_use() -> None:
    weight = ["params.kl_weight=3"]
    with pytest.raises(UserError, match="kl_weight has no effect on loss pgd: leave it out, or"):
        resolve("proxy", assignments=weight)
    assert resolve("proxy", assignments=[*weight, "params.loss=trades"]).params["kl_weight"] == 3


def test_clean_images_pass_first_and_the_attack_computes_them_once(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    order, task = Recorder(network), make_task("wang-dm")
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
def test_a_row_has_its_generated_images(method: str, recipe: str) -> None:
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


@pytest.mark.parametrize("method", ["wang-dm", "rebuffi", "gowal", "score"])
def test_cards_note_which_of_equal_epochs_is_kept(method: str) -> None:
    found = [note for note in METHODS.get(method).card.notes if "equally good" in note]
    assert len(found) == 1
