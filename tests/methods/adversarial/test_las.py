"""las-at, las-awp, las-trades: losses, updates and plans of the strategy network, restarts."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from brightness import Brightness
from torch import Tensor, nn

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.method import AttackPlan, Batch, Task
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from methods.adversarial import _strategy
from methods.adversarial._strategy import MOVED_NOTE, StrategyTask, strategy_loss
from tests.methods.conftest import assert_same_loss

LAS = ["las-at", "las-awp", "las-trades"]


def with_tiny_strategy(task: Task) -> Task:
    torch.manual_seed(5)
    task.strategy = nn.Sequential(nn.Flatten(), nn.Linear(18, sum(task.sizes))).double()
    task.strategy_optimizer = torch.optim.SGD(task.strategy.parameters(), lr=0.1)
    return task


def planned(task: Task, batch: Batch) -> Batch:
    batch.plan = task.attack_plan(batch, torch.Generator().manual_seed(3))
    return batch


@pytest.mark.parametrize(("method", "smoothing"), [("las-at", 0.3), ("las-awp", 0.0)])
def test_loss_is_its_formula(
    network: nn.Module,
    batch: Batch,
    make_task: Callable[..., Task],
    method: str,
    smoothing: float,
) -> None:
    task = make_task(method, strategy_arch="resnet8", label_smoothing=0.3)
    log = network(batch.adversarial).log_softmax(1)
    expected = torch.zeros((), dtype=log.dtype)
    for row, label in zip(log, batch.y.tolist(), strict=True):
        for k in range(len(row)):
            expected = expected - row[k] * (1 - smoothing if k == label else smoothing / 6)
    assert_same_loss(task.loss(network, batch).loss, expected / len(batch.y), network)


def test_trades_weighs_each_image_as_it_is_planned(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    weights = (2.0, 5.0, 11.0)
    task = with_tiny_strategy(
        make_task("las-trades", strategy_arch="resnet8", kl_weight_choices=weights)
    )
    with pytest.raises(RuntimeError, match="no plan"):
        task.loss(network, batch)
    planned(task, batch)
    chosen = batch.plan.kl_weight_B
    assert set(chosen.tolist()) <= set(weights)
    assert len(set(chosen.tolist())) > 1
    clean, adv = network(batch.x).softmax(1), network(batch.adversarial).softmax(1)
    expected = torch.zeros((), dtype=clean.dtype)
    for p, q, label, weight in zip(clean, adv, batch.y, chosen, strict=True):
        expected = expected - p[label].log() + weight * (p * (p / q).log()).sum()
    assert_same_loss(task.loss(network, batch).loss, expected / len(batch.y), network)


def test_strategy_loss_is_reinforce() -> None:
    torch.manual_seed(4)
    logits = [torch.randn(6, a, dtype=torch.float64, requires_grad=True) for a in (3, 4)]
    choices = torch.stack([torch.randint(3, (6,)), torch.randint(4, (6,))], 1)
    reward = torch.tensor(2.5, dtype=torch.float64)
    loss = strategy_loss(logits, choices, reward)
    expected = torch.zeros((), dtype=torch.float64)
    for h, scores in enumerate(logits):
        for b in range(6):
            exponentials = scores[b].exp()
            expected -= 2.5 * (exponentials[choices[b, h]] / exponentials.sum()).log() / 6
    torch.testing.assert_close(loss, expected)
    # For a softmax, d log pi(a) / d logits is one-hot(a) - pi.
    for h, gradient in enumerate(torch.autograd.grad(loss, logits)):
        taken = torch.eye(logits[h].shape[1], dtype=torch.float64)[choices[:, h]]
        torch.testing.assert_close(gradient, -2.5 * (taken - logits[h].detach().softmax(1)) / 6)


class StubView:
    """Holds a network, shifts images by 0.01 and looks ahead to another network."""

    def __init__(self, model: nn.Module, after: nn.Module) -> None:
        self.model, self.after = model, after
        self.generator = torch.Generator().manual_seed(6)
        self.rate_factor = 0.1
        self.tried: list[Batch] = []
        self.ahead: list[Tensor] = []

    def attack(self, batch: Batch) -> Tensor:
        self.tried.append(batch)
        return (batch.x + 0.01).clamp(0, 1)

    def look_ahead(self, loss: Callable[..., Tensor], perturbation: Callable[..., Tensor]) -> Any:
        self.ahead = [loss(self.model), perturbation(self.model)]
        return self.after


@pytest.mark.parametrize("method", LAS)
def test_strategy_learns_from_the_loss_and_both_accuracies(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    weights = {"robust_reward_weight": 4.0, "clean_reward_weight": 2.0, "strategy_lr": 0.5}
    task = with_tiny_strategy(
        make_task(method, strategy_arch="resnet8", strategy_interval=2, **weights)
    )
    after = Brightness(batch.x, 7)
    batch.y = torch.where(torch.arange(12) < 9, after(batch.x).argmax(1), batch.y)
    worst = after.worst(batch.x, batch.y, task.params.target_eps)
    clean, robust = (
        float((after(x).argmax(1) == batch.y).double().mean()) for x in (batch.x, worst)
    )
    assert 0 < robust < clean < 1
    before = [parameter.detach().clone() for parameter in task.strategy.parameters()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    view = StubView(network, after)
    task.before_attack(batch, view)
    assert not view.tried, "the first of two steps is no update"
    generator = torch.Generator().manual_seed(6)
    task.before_attack(batch, view)
    (tried,) = view.tried
    log_n, log_m = network(tried.adversarial).log_softmax(1), network(batch.x).log_softmax(1)
    right = range(len(batch.y)), batch.y
    reached = -log_n[right].mean()
    if method == "las-trades":
        kl = (log_m.exp() * (log_m - log_n)).sum(1)
        reached = -log_m[right].mean() + (tried.plan.kl_weight_B * kl).mean()
    torch.testing.assert_close(
        task.reward, (reached + 4 * robust + 2 * clean).float().detach(), check_dtype=False
    )
    # The update is one clipped gradient step on the REINFORCE loss of the tried draw.
    weight, bias = (value.clone().requires_grad_(True) for value in before)
    logits = (batch.x.flatten(1) @ weight.T + bias).split(task.sizes, 1)
    drawn = torch.cat([torch.multinomial(s.softmax(1), 1, generator=generator) for s in logits], 1)
    assert torch.equal(tried.plan.eps_B, task.eps[drawn[:, 0]])
    loss = -sum(
        float(task.reward) * scores.log_softmax(1)[range(12), taken].mean()
        for scores, taken in zip(logits, drawn.unbind(1), strict=True)
    )
    gradients = torch.autograd.grad(loss, [weight, bias])
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    lr = 0.1 if method == "las-at" else task.params.strategy_lr * 0.1
    for parameter, value, gradient in zip(
        task.strategy.parameters(), before, gradients, strict=True
    ):
        expected = value - lr * gradient / max(1.0, float(norm) + 1e-6)
        torch.testing.assert_close(parameter.detach(), expected)
    assert all(torch.equal(network.state_dict()[name], state[name]) for name in state)


def test_rewards_attack_finds_the_worst_images_in_the_ball(batch: Batch) -> None:
    """Ten steps of a quarter of the radius reach the corner that maximises a linear loss."""
    after, eps = Brightness(batch.x, 7), 8 / 255
    generator = torch.Generator().manual_seed(6)
    found = _strategy.strongest(after, batch, eps, generator)
    worst = after.worst(batch.x, batch.y, eps)
    torch.testing.assert_close(found, worst)
    assert not torch.equal(found, batch.x)


def test_rewards_attack_keeps_the_better_of_two_starts(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    after, eps = Brightness(batch.x, 7), 8 / 255
    worst = after.worst(batch.x, batch.y, eps)
    halves = torch.arange(12)[:, None, None, None] < 6
    starts = iter([torch.where(halves, worst, batch.x), torch.where(halves, batch.x, worst)])
    monkeypatch.setattr(_strategy, "pgd", lambda *arguments: next(starts))
    found = _strategy.strongest(after, batch, eps, torch.Generator())
    assert torch.equal(found, worst)
    assert next(starts, None) is None


@pytest.mark.parametrize("method", LAS)
def test_plans_are_drawn_from_the_alternatives(
    batch: Batch, make_task: Callable[..., Task], method: str
) -> None:
    task = with_tiny_strategy(make_task(method, strategy_arch="resnet8"))
    batch.x = batch.x.repeat(50, 1, 1, 1)
    plan, again = (planned(task, batch).plan for _ in range(2))
    params = task.params
    for drawn, alternatives in [
        (plan.eps_B, params.eps_choices),
        (plan.step_size_B, params.step_size_choices),
        (plan.steps_B, params.steps_choices),
    ]:
        assert set(drawn.tolist()) == set(torch.tensor(alternatives).tolist())
    assert plan.start_eps == 8 / 255
    assert torch.equal(plan.eps_B, again.eps_B)
    assert task.optimised_parameters() == ()


def test_selection_on_test_images_is_only_in_the_recipes_named_so() -> None:
    for method in LAS:
        for name in METHODS.get(method).recipes:
            rule = resolve(method, recipe=name).training.selection.rule
            marked = name.startswith("table") or name.endswith("best-on-test")
            assert (rule == "best-on-test") == marked


SHORT = {
    "device": "cpu",
    "data.train_limit": 64,
    "training.epochs": 2,
    "training.batch_size": 32,
    "training.monitor.every": 0,
    "evaluation.limit": 2,
    "evaluation.attacks": (),
}


def final_task(directory: RunDirectory) -> dict[str, Any]:
    state = torch.load(directory.checkpoint_path, weights_only=True)
    assert state["epoch"] == 2
    return dict(state["task"])


def test_a_restart_changes_no_weight_of_either_network(tmp_path: Path) -> None:
    changes = [
        "params.strategy_interval=2",
        "params.strategy_momentum=0.9",
        "params.strategy_lr=0.01",
    ]

    class Stop(Reporter):
        def line(self, text: str) -> None:
            if text.startswith("epoch 1/"):
                raise KeyboardInterrupt

    directories = []
    for name in ("whole", "halted"):
        config = resolve(
            "las-awp", options={**SHORT, "results": tmp_path / name}, assignments=changes
        )
        if name == "halted":
            with pytest.raises(KeyboardInterrupt):
                run(config, Stop(quiet=True))
        run(config, Reporter(quiet=True))
        directories.append(RunDirectory(tmp_path / name, config.run_id))
    whole, resumed = (final_task(directory) for directory in directories)
    assert whole["_extra_state"]["steps"] == resumed["_extra_state"]["steps"] == 4
    buffers = [
        [entry["momentum_buffer"] for entry in state["_extra_state"]["optimizer"]["state"].values()]
        for state in (whole, resumed)
    ]
    assert len(buffers[0]) == len(buffers[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))
    assert float(whole["reward"]) > 0
    for name, tensor in whole.items():
        assert name == "_extra_state" or torch.equal(tensor, resumed[name]), name
    models = [torch.load(d.model_path, weights_only=True)["state_dict"] for d in directories]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_only_its_own_optimiser_moves_the_strategy_network(tmp_path: Path) -> None:
    weights = []
    for epochs in (1, 2):
        options = {**SHORT, "training.epochs": epochs, "results": tmp_path / str(epochs)}
        config = resolve("las-at", options=options, assignments=["params.strategy_interval=1000"])
        run(config, Reporter(quiet=True))
        path = RunDirectory(tmp_path / str(epochs), config.run_id).checkpoint_path
        weights.append(torch.load(path, weights_only=True))
    names = [name for name in weights[0]["task"] if name.endswith("weight")]
    assert len(names) > 10
    assert all(torch.equal(weights[0]["task"][n], weights[1]["task"][n]) for n in names)
    moved = [
        not torch.equal(tensor, weights[1]["model"][name])
        for name, tensor in weights[0]["model"].items()
        if name.endswith("weight")
    ]
    assert all(moved)


def test_mixed_precision_judges_and_plans_by_the_weights_after_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast may cache a weight's rounded copy, which an in-place step does not change."""
    checked = []

    def check(network: nn.Module, x: Tensor, role: str) -> None:
        fresh = deepcopy(network).eval()
        used = network.training
        with torch.no_grad():
            assert torch.equal(network.eval()(x), fresh(x)), role
        network.train(used)
        checked.append(role)

    strongest, plan = _strategy.strongest, StrategyTask.attack_plan

    def judged(model: nn.Module, batch: Batch, *more: Any) -> Tensor:
        check(model, batch.x, "the network after a step")
        return strongest(model, batch, *more)

    def planned_by(task: StrategyTask, batch: Batch, generator: torch.Generator) -> AttackPlan:
        check(task.strategy, batch.x, "the strategy network")
        return plan(task, batch, generator)

    monkeypatch.setattr(_strategy, "strongest", judged)
    monkeypatch.setattr(StrategyTask, "attack_plan", planned_by)
    options = {**SHORT, "training.epochs": 1, "data.train_limit": 64, "training.precision": "bf16"}
    changes = ["params.strategy_interval=1", "params.strategy_lr=0.1"]
    config = resolve("las-awp", options={**options, "results": tmp_path}, assignments=changes)
    run(config, Reporter(quiet=True))
    assert checked == ["the network after a step", "the strategy network"] * 2


def test_cards_note_of_which_release_the_rewards_attack_moves_fewer_images() -> None:
    noted = {method for method in LAS if MOVED_NOTE in METHODS.get(method).card.notes}
    assert noted == {"las-at", "las-trades"}


@pytest.mark.parametrize("method", LAS)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("eps_choices=[]", r"params.eps_choices = \[\] is refused"),
        ("eps_choices=[8]", r"params.eps_choices.0 = 8 is refused"),
        ("step_size_choices=[]", r"params.step_size_choices = \[\] is refused"),
        ("step_size_choices=[0.1, 2]", r"params.step_size_choices.1 = 2 is refused"),
        ("steps_choices=[]", r"params.steps_choices = \[\] is refused"),
        ("steps_choices=[-3]", r"params.steps_choices.0 = -3 is refused"),
        ("steps_choices=[0]", r"params.steps_choices.0 = 0 is refused"),
        ("target_eps=8", r"params.target_eps = 8 is refused"),
    ],
)
def test_alternatives_that_are_no_attack_are_refused(
    method: str, setting: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve(method, assignments=[f"params.{setting}"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kl_weight_choices=[]", r"params.kl_weight_choices = \[\] is refused"),
        ("kl_weight_choices=[-5]", r"params.kl_weight_choices.0 = -5 is refused"),
        ("label_smoothing=0.2", r"las-trades does not smooth labels: leave label_smoothing out"),
    ],
)
def test_las_trades_refuses_what_it_cannot_use(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve("las-trades", assignments=[f"params.{setting}"])


def test_labels_cannot_be_smoothed_past_uniform_ones(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    """With two classes, labels are uniform at 0.5; with more classes, at a larger value."""
    for method in LAS:
        with pytest.raises(ValueError, match="label_smoothing"):
            METHODS.get(method).params(label_smoothing=0.51)
    task = make_task("las-at", strategy_arch="resnet8", label_smoothing=0.5)
    batch.y %= 2
    two = nn.Sequential(network, nn.Linear(7, 2).double())
    log = two(batch.adversarial).log_softmax(1)
    torch.testing.assert_close(task.loss(two, batch).loss, -log.mean())
