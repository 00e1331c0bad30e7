"""The training loop: which weights and images count, means of losses, and checkpoints."""

from collections.abc import Iterator, Sequence
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
from harness.experiment.resolve import resolve
from harness.method import Batch, Forward, Method, MethodCard, Params, StepOutput, Task
from harness.registry import METHODS
from harness.store.rundir import list_runs
from harness.training import loop
from harness.training.build import new_model
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

    def __init__(self, *clean: float, pgd: Sequence[float] = ()) -> None:
        self.scores = {"clean": clean, **({"pgd": pgd} if pgd else {})}
        self.states: list[dict[str, Tensor]] = []
        self.images: list[Any] = []
        self.limits: list[int | None] = []
        self.attacks: list[tuple[float, int]] = []

    def __call__(self, model: nn.Module, images: Any, device: Any, **named: Any) -> dict[str, Any]:
        self.states.append({name: t.clone() for name, t in model.state_dict().items()})
        self.images.append(images)
        self.limits.append(named["limit"])
        self.attacks.append((named["eps"], named["pgd_steps"]))
        return {name: scores[len(self.states) - 1] for name, scores in self.scores.items()}


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


def test_the_first_epoch_of_the_highest_accuracy_under_pgd_is_selected(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "monitor_accuracy", Watched(0.9, 0.8, 0.7, pgd=(0.1, 0.3, 0.3)))
    assert trained(tmp_path, "vanilla", **SELECTED).record["selected_epoch"] == 2


@pytest.mark.parametrize(
    ("method", "changes", "attack"),
    [
        ("pgd-at", {"training.selection.rule": "best-on-val"}, (0.1, 3)),
        ("pgd-at", {"training.selection": {"rule": "best-on-val", "eps": 0.05}}, (0.05, 3)),
        ("pgd-at", {"training.selection.rule": "last"}, (0.1, 7)),
        ("vanilla", {"training.selection.rule": "best-on-val"}, (0.0, 0)),
    ],
)
def test_epochs_are_selected_by_the_selections_attack(
    method, changes, attack, tmp_path, monkeypatch
):
    """The monitor's number of steps is not part of the run's id, so it must not select."""
    watched = Watched(0.5)
    monkeypatch.setattr(loop, "monitor_accuracy", watched)
    steps = {"training.selection.pgd_steps": 3, "training.monitor": {"every": 1, "pgd_steps": 7}}
    radius = {"training.attack.eps": 0.1} if method == "pgd-at" else {}
    common: dict[str, Any] = {"training.epochs": 1, "data.val_size": 20, **steps, **radius}
    trained(tmp_path, method, **common, **changes)
    assert watched.attacks == [attack]


def test_monitoring_changes_no_weight(tmp_path):
    watched, alone = (
        trained(tmp_path / str(every), "pgd-at", **{"training.monitor.every": every})
        for every in (1, 0)
    )
    assert all(epoch["pgd_val"] is not None for epoch in watched.epochs())
    assert_same_weights(watched, alone)


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
    # Every third image or so of the 360, or all of them.
    rows = [number * len(x) // 100 for number in range(100)] if limit else slice(None)
    worst = model.worst(x, labels, eps)
    expected = [
        float((model(each)[rows].argmax(1) == labels[rows]).double().mean()) for each in (x, worst)
    ]
    found = monitor_accuracy(model, images, torch.device("cpu"), limit=limit, eps=eps, pgd_steps=10)
    assert [found["clean"], found["pgd"]] == pytest.approx(expected)
    assert 0.1 < found["pgd"] < found["clean"] - 0.1 < 0.9


def test_images_sorted_by_class_are_monitored_on_every_class():
    images = load_dataset("digits").test
    images = images.take(images.labels.argsort(), complete=False)
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(constant[1].weight)
    nn.init.eye_(constant[1].bias[None])  # always class 0
    found = monitor_accuracy(constant, images, torch.device("cpu"), limit=30, eps=0, pgd_steps=0)
    assert found == {"clean": pytest.approx(0.1)}


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


class Drawing(Task):
    """Its parts are one draw from each source of random numbers of a step."""

    def __init__(self, params: Any, context: Any) -> None:
        super().__init__(params, context)
        self.own = nn.Linear(1, 1)
        self.noise = torch.zeros(())

    def attack_plan(self, batch: Batch, generator: torch.Generator) -> None:
        self.noise = torch.rand((), generator=generator)

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        parts = {
            "network": self.own.weight.detach().sum(),
            "order": (batch.y * torch.arange(len(batch.y))).sum(),
            "attack": self.noise,
            "global": torch.rand(()),
        }
        return StepOutput(model(batch.x).square().mean(), parts)


DRAWING = Method(COUNTING.card, Params, Drawing, COUNTING.recipes)


def test_every_random_number_depends_on_the_seed_and_all_but_the_networks_on_the_epoch(tmp_path):
    changes = {"training.attack.eps": 0.1, "training.batch_size": 96}

    def parts(folder: str, seed: int) -> list[dict[str, float]]:
        run = trained(tmp_path / folder, "drawing", seed=seed, **changes)
        return [epoch["parts"] for epoch in run.epochs()]

    with METHODS.temporarily("drawing", f"{__name__}:DRAWING"):
        (first, second), (other, _) = parts("whole", 0), parts("whole", 1)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "halted", "drawing", Lines("epoch 1/"), **changes)
        assert parts("halted", 0) == [first, second]
    assert {name for name in first if first[name] != other[name]} == set(first)
    assert {name for name in first if first[name] != second[name]} == set(first) - {"network"}


def test_the_weights_of_a_new_network_depend_on_the_seed():
    info = load_dataset("digits").info
    zero, again, one = (
        new_model(resolve("vanilla", options={"seed": seed}), info).state_dict()
        for seed in (0, 0, 1)
    )
    weights = [name for name in zero if zero[name].ndim > 1]
    assert weights
    for name in weights:
        assert torch.equal(zero[name], again[name])
        assert not torch.equal(zero[name], one[name])


class Overflowing(Task):
    """A finite loss whose gradient is infinite."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        logits = model(batch.x)
        return StepOutput((logits - logits.detach()).abs().sqrt().mean(), {})


OVERFLOWING = Method(COUNTING.card, Params, Overflowing, COUNTING.recipes)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    one_step = {"training.epochs": 1, "training.batch_size": 96}
    with (
        METHODS.temporarily("overflowing", f"{__name__}:OVERFLOWING"),
        pytest.raises(UserError, match="is not finite after epoch 1"),
    ):
        trained(tmp_path, "overflowing", **one_step)
    assert not list(tmp_path.rglob("*.pt"))


class Hungry(Task):
    """Needs more memory than the device has."""

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")


HUNGRY = Method(COUNTING.card, Params, Hungry, COUNTING.recipes)


def test_training_that_runs_out_of_memory_says_what_needs_less(tmp_path):
    with (
        METHODS.temporarily("hungry", f"{__name__}:HUNGRY"),
        pytest.raises(UserError, match=r"of hungry-\w+ ran out of memory on cpu: set") as caught,
    ):
        trained(tmp_path, "hungry")
    for setting in ("training.batch_size", "training.precision=bf16", "torchrun"):
        assert setting in str(caught.value)
    assert "\n" not in str(caught.value)
    (run,) = list_runs(tmp_path)
    assert run.record["status"] == "error"


class OwnNorm(Task):
    """Has a network of its own, whose gradients are zero."""

    def __init__(self, params: Any, context: Any) -> None:
        super().__init__(params, context)
        self.own = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    def loss(self, model: Forward, batch: Batch) -> StepOutput:
        sums = {
            name: parameter.detach().sum()
            for name, parameter in self.own.named_parameters()
            if name.endswith("weight")
        }
        nothing = 0 * torch.stack([each.sum() for each in self.own.parameters()]).sum()
        return StepOutput(model(batch.x).square().mean() + nothing, sums)


OWN_NORM = Method(COUNTING.card, Params, OwnNorm, COUNTING.recipes)


@pytest.mark.parametrize("decay", ["all", "not-norm"])
def test_weight_decay_spares_the_normalisation_layers_of_a_tasks_own_networks(decay, tmp_path):
    changes = {"training.optimizer.decay": decay, "training.optimizer.weight_decay": 0.1}
    with METHODS.temporarily("own-norm", f"{__name__}:OWN_NORM"):
        first, last = (each["parts"] for each in trained(tmp_path, "own-norm", **changes).epochs())
    assert abs(last["0.weight"]) < abs(first["0.weight"])
    assert (last["1.weight"] == first["1.weight"] == 4) is (decay == "not-norm")


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
