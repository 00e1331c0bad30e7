"""The training loop: which weights and images count, means of losses, and checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from brightness import Brightness
from distilling import Lines, assert_same_weights, trained
from torch import Tensor, nn

from harness.data import load_dataset
from harness.errors import UserError
from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task
from harness.registry import METHODS
from harness.training import loop
from harness.training.monitor import monitor_accuracy

AVERAGED = {"training.averaging.kind": "epoch", "training.averaging.decay": 0.5}
SELECTED: dict[str, Any] = {
    **AVERAGED,
    "training.selection.rule": "best-on-val",
    "training.epochs": 3,
    "data.val_size": 20,
}


class Watched:
    """Replaces ``monitor_accuracy``: gives scores, and stores the models and images it gets."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores
        self.states: list[dict[str, Tensor]] = []
        self.images: list[Any] = []
        self.limits: list[int | None] = []

    def __call__(self, model: nn.Module, images: Any, device: Any, **named: Any) -> dict[str, Any]:
        self.states.append({name: t.clone() for name, t in model.state_dict().items()})
        self.images.append(images)
        self.limits.append(named["limit"])
        return {"clean": self.scores[len(self.states) - 1]}


def weights_of(run: Any) -> dict[str, Tensor]:
    return dict(torch.load(run.model_path, weights_only=True)["state_dict"])


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_stored_weights_are_those_of_the_selected_epoch(interrupted, tmp_path, monkeypatch):
    """The average of the weights is judged and stored, also if training stops after its epoch."""
    watched = Watched(0.5, 0.9, 0.1)
    monkeypatch.setattr(loop, "monitor_accuracy", watched)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, "vanilla", Lines("epoch 2/"), **SELECTED)
    run = trained(tmp_path, "vanilla", **SELECTED)
    assert len(watched.states) == 3
    assert run.record["selected_epoch"] == 2
    stored, (_, best, last) = weights_of(run), watched.states
    assert all(torch.equal(stored[name], tensor) for name, tensor in best.items())
    assert not torch.equal(stored["fc.weight"], last["fc.weight"])


@pytest.mark.parametrize(
    ("rule", "val_size", "split", "limit"),
    [
        ("best-on-val", 20, "train", None),
        ("best-on-test", 0, "test", None),
        ("best-on-test", 20, "test", None),
        ("last", 20, "train", 256),
        ("last", 0, "test", 256),
    ],
)
def test_the_rule_says_on_which_images_epochs_are_judged(
    rule, val_size, split, limit, tmp_path, monkeypatch
):
    watched = Watched(0.5)
    monkeypatch.setattr(loop, "monitor_accuracy", watched)
    changes = {"training.selection.rule": rule, "data.val_size": val_size, "training.epochs": 1}
    trained(tmp_path, "vanilla", **changes, **{"training.monitor.every": 1})
    data = load_dataset("digits")
    (images,) = watched.images
    expected = data.train if split == "train" else data.test
    known = {each.numpy().tobytes() for each in expected.images_float(slice(None))}
    found = [each.numpy().tobytes() for each in images.images_float(slice(None))]
    assert len(found) == (20 if split == "train" else len(data.test))
    assert set(found) <= known
    assert watched.limits == [limit]


def test_training_is_monitored_every_few_epochs_and_at_the_end(tmp_path):
    run = trained(tmp_path, "vanilla", **{"training.epochs": 3, "training.monitor.every": 2})
    assert [record.get("clean_val") is not None for record in run.epochs()] == [False, True, True]


@pytest.mark.parametrize("limit", [None, 100])
def test_monitored_accuracy_is_that_at_the_worst_corner_of_the_ball(limit):
    """With a linear margin, ten steps of a quarter of the radius reach it from any start."""
    data, eps = load_dataset("digits").test, 0.05
    x = data.images_float(slice(None)).double()
    model = Brightness(x, 3)
    labels = torch.where(torch.arange(len(x)) % 4 > 0, model(x).argmax(1), 0)
    images = data.take(torch.arange(len(x)), complete=False)
    images.labels.copy_(labels)
    n = limit or len(x)
    worst = model.worst(x, labels, eps)
    expected = [
        float((model(each)[:n].argmax(1) == labels[:n]).double().mean()) for each in (x, worst)
    ]
    found = monitor_accuracy(model, images, torch.device("cpu"), limit=limit, eps=eps, pgd_steps=10)
    assert [found["clean"], found["pgd"]] == pytest.approx(expected)
    assert 0.1 < found["pgd"] < found["clean"] - 0.1 < 0.9


class Counting(Task):
    """The loss of the n-th step is n."""

    def __init__(self, params: Any, context: Any) -> None:
        super().__init__(params, context)
        self.steps = 0

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        self.steps += 1
        loss = 0 * model(batch.x).sum() + self.steps
        return StepOutput(loss, {"square": loss.detach() ** 2})


COUNTING = Method(
    MethodCard("Counting", "adversarial", "-", "-", "-"),
    Params,
    Counting,
    {"digits": lambda: {"data": {"name": "digits"}}},
)


@contextmanager
def counting() -> Iterator[None]:
    with METHODS.temporarily("counting", f"{__name__}:COUNTING"):
        yield


def test_losses_of_an_epoch_are_means_over_images(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "OPENING_STEPS", 3)
    with counting():
        run = trained(tmp_path, "counting", **{"data.train_limit": 100, "training.epochs": 1})
    (record,) = run.epochs()
    assert record["loss"] == pytest.approx((32 + 2 * 32 + 3 * 32 + 4 * 4) / 100)
    assert record["parts"]["square"] == pytest.approx((32 + 4 * 32 + 9 * 32 + 16 * 4) / 100)
    assert record["opening_losses"] == [1, 2, 3]


def test_training_resumes_from_an_older_checkpoint_than_the_last_epoch(tmp_path: Path):
    changes = {**AVERAGED, "training.epochs": 5, "training.checkpoint_every": 2}
    whole = trained(tmp_path / "whole", "vanilla", **changes)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "halted", "vanilla", Lines("epoch 3/"), **changes)
    resumed = trained(tmp_path / "halted", "vanilla", **changes)
    assert [record["epoch"] for record in resumed.epochs()] == [1, 2, 3, 4, 5]
    assert_same_weights(whole, resumed)
    losses = [[record["loss"] for record in run.epochs()] for run in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("part", "state"),
    [
        ("model", {}),
        ("task", {"means": torch.zeros(3)}),
        ("optimizer", {"state": {}, "param_groups": []}),
    ],
)
def test_a_checkpoint_of_other_code_is_refused(tmp_path: Path, part: str, state: Any):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "vanilla", Lines("epoch 1/"))
    (file,) = tmp_path.rglob("last.pt")
    torch.save({**torch.load(file, weights_only=True), part: state}, file)
    with pytest.raises(UserError, match=r"last\.pt does not fit the present code .*run --fresh"):
        trained(tmp_path, "vanilla")
