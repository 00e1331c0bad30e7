"""Every method on every pair: its recipes, and three steps on CIFAR-sized images."""

from functools import lru_cache
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from harness.config import OptimizerConfig, RunConfig
from harness.errors import UserError
from harness.experiment.resolve import resolve, teacher_run
from harness.method import Batch, TaskContext
from harness.models import build_model
from harness.models.checkpoint import state_dict_sha256
from harness.models.normalize import Normalized
from harness.registry import METHODS
from harness.training.modes import ReplicaForward, batchnorms
from harness.training.optimizer import build_optimizer
from harness.training.schedules import cycle_ends
from leaderboards.printed import REPORTED_CSV
from methods._pairs import CIFAR_PAIRS, PAIRS, natural

NAMES = [name for name in METHODS.names() if METHODS.get(name).card.family == "distillation"]
# The recipes of these methods have a different schedule, which their own tests check.
OWN_SCHEDULE = {"mlkd", "snapshot-kd"}
RECIPES = [
    (name, pair)
    for name in NAMES
    for pair in PAIRS.values()
    if pair.recipe in METHODS.get(name).recipes
]
PRINTED_NAMES = {"ResNet34": "imagenet-resnet34", "ResNet18": "imagenet-resnet18"}
PRINTED_NAMES |= {"MobileNetV1": "mobilenet-v1", "MobileNet-V2": "mobilenet-v2"}
PRINTED_NAMES |= {"ShuffleNet-V1": "shufflenet-v1", "ShuffleNet-V2": "shufflenet-v2"}


def printed_pairs() -> "pd.DataFrame":
    frame = pd.read_csv(REPORTED_CSV, keep_default_na=False)
    return frame[frame["table"].isin((3, 5, 7)) & (frame["metric"] == "teacher_top1")]


def architecture(printed: str, table: int) -> str:
    if table == 3 and printed == "ResNet50":
        return "imagenet-resnet50"
    return PRINTED_NAMES.get(printed, printed.lower())


def test_pairs_are_the_printed_ones_with_their_teachers_accuracies() -> None:
    printed = {
        (
            row["table"],
            architecture(row["teacher"], row["table"]),
            architecture(row["student_or_arch"], row["table"]),
            row["value"],
        )
        for _, row in printed_pairs().iterrows()
    }
    ours = {(p.table, p.teacher, p.student, p.teacher_top1) for p in PAIRS.values()}
    assert ours == printed
    assert len(ours) == len(PAIRS) == 13
    assert len(CIFAR_PAIRS) == 11


@pytest.mark.parametrize(("name", "pair"), RECIPES, ids=lambda each: getattr(each, "name", each))
def test_recipe_of_a_pair_is_the_literatures_training(name: str, pair: Any) -> None:
    config = RunConfig.model_validate({"method": name, **METHODS.get(name).recipes[pair.recipe]()})
    assert (config.data.name, config.model.arch) == (pair.dataset, pair.student)
    assert config.model.normalize
    assert config.training.attack is None
    assert config.evaluation.attacks == ()
    assert (config.teacher is not None) == METHODS.get(name).card.needs_teacher
    if name in OWN_SCHEDULE:
        return
    batch, lr, milestones = 64, 0.05, [150, 180, 210]
    if pair.table == 3:
        batch = {"crd": 256, "reviewkd": 256, "ofd": 128}.get(name, 512)
        lr, milestones = 0.2 * batch / 512, [30, 60, 90]
    elif pair.student.startswith(("mobilenet", "shufflenet")):
        lr = 0.01
    optimizer = config.training.optimizer
    assert config.training.batch_size == batch
    assert optimizer.lr == pytest.approx(lr)
    # A first stage comes before the usual epochs.
    first = config.training.epochs - (100 if pair.table == 3 else 240)
    assert first == (30 if "first_stage" in METHODS.get(name).params.model_fields else 0)
    assert optimizer.schedule == "steps"
    assert list(optimizer.milestones) == [first + each for each in milestones]


def teachers(config: RunConfig) -> list[RunConfig]:
    """The runs that a run depends on, from its own teacher to the first of the chain."""
    if config.teacher is None:
        return []
    teacher = teacher_run(config)
    return [teacher, *teachers(teacher)]


@pytest.mark.parametrize("name", NAMES)
def test_teachers_are_natural_runs_of_the_same_data_or_distilled_from_one(name: str) -> None:
    for recipe in METHODS.get(name).recipes:
        config = resolve(name, recipe=recipe)
        chain = teachers(config)
        assert bool(chain) == METHODS.get(name).card.needs_teacher
        for student, teacher in zip([config, *chain], chain, strict=False):
            assert student.teacher is not None
            assert teacher.model.arch == student.teacher.arch
            assert teacher.data == config.data
            assert teacher.model.normalize == config.model.normalize
            assert teacher.evaluation.attacks == ()
        if not chain:
            continue
        first = chain[-1]
        assert first.method == "vanilla"
        if config.data.name in ("cifar10", "cifar100"):
            expected = natural(config.data.name, first.model.arch)["training"]["optimizer"]
            stopped_early = name == "eskd"
            assert (first.training.epochs < 240) == stopped_early
            if not stopped_early:
                assert first.training.optimizer == OptimizerConfig.model_validate(expected)
        if config.data.name == "imagenet":
            assert config.teacher is not None
            assert config.teacher.weights == f"torchvision:{config.teacher.arch[9:]}"


@pytest.mark.parametrize(("name", "pair"), RECIPES, ids=lambda each: getattr(each, "name", each))
def test_the_first_teacher_has_nearly_its_printed_accuracy(name: str, pair: Any) -> None:
    config = resolve(name, recipe=pair.recipe)
    for student in [config, *teachers(config)][:-1]:
        assert student.teacher is not None
        if student.teacher.arch == pair.teacher and name != "eskd":
            assert student.teacher.minimum == pytest.approx(pair.teacher_top1 / 100 - 0.02)


@lru_cache(maxsize=1)
def networks(name: str) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """The pair's teacher, its student, and the student's initial state."""
    pair = PAIRS[name]
    torch.manual_seed(0)
    built = [
        Normalized(build_model(arch, 100), (0.5,) * 3, (0.25,) * 3)
        for arch in (pair.teacher, pair.student)
    ]
    teacher, student = built
    # Give the teacher the statistics of images, or its activations explode.
    for layer in batchnorms(teacher):
        layer.momentum = None
    with torch.no_grad():
        teacher(torch.rand(8, 3, 32, 32))
    teacher.eval().requires_grad_(False)
    return teacher, student, {k: v.clone() for k, v in student.state_dict().items()}


# Every test run covers two pairs per method; the others are slow tests.
QUICK = ("resnet56-resnet20", "vgg13-mobilenet-v2")
STEPPED = [
    pytest.param(pair, name, marks=() if pair in QUICK else pytest.mark.slow)
    for pair in CIFAR_PAIRS
    for name in NAMES
]


@pytest.mark.parametrize(("pair", "name"), STEPPED)
def test_three_steps(pair: str, name: str) -> None:
    """Steps in the first, a middle and the last epoch; without a recipe, the pair is refused."""
    teacher, student, start = networks(pair)
    student.load_state_dict(start)
    untouched = state_dict_sha256(teacher)
    method = METHODS.get(name)
    recipe = method.recipes.get(PAIRS[pair].recipe, lambda: {})
    config = RunConfig.model_validate({"method": name, **recipe()})
    params = config.params | ({"negatives": 16} if name == "crd" else {})
    labels = torch.arange(40) % 10
    context = TaskContext(
        num_classes=100,
        epochs=240,
        device=torch.device("cpu"),
        teacher=teacher if method.card.needs_teacher else None,
        student=student,
        train_labels=labels,
        cycle_ends=tuple(cycle_ends(240, config.training.optimizer.cycles)),
    )
    if PAIRS[pair].recipe not in method.recipes:
        with pytest.raises(UserError, match=r"student.*teacher.*: choose"):
            method.task(method.params(**params), context)
        return
    task = method.task(method.params(**params), context)
    optimizer = build_optimizer(student, task.optimised_parameters(), config.training.optimizer)
    forward = ReplicaForward(student, 1)
    own = {key: value.clone() for key, value in task.state_dict().items()}
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = teacher(x) if task.needs_teacher_logits else None
    trained: set[str] = set()
    for step, epoch in enumerate((1, 120, 240)):
        index = torch.tensor([step, step + 3])
        batch = Batch(x=x, y=labels[index], index=index, epoch=epoch, teacher_output=logits)
        batch.others = tuple(
            Batch(x=x.flip(3), y=batch.y, index=index, epoch=epoch)
            for _ in range(task.autoaugmented_views)
        )
        student.train()
        task.train()
        output = task.loss(forward, batch)
        assert bool(output.loss.isfinite())
        optimizer.zero_grad()
        output.loss.backward()
        for key, parameter in named_parameters(student, task):
            if parameter.grad is not None:
                assert bool(parameter.grad.isfinite().all()), key
                trained.add(key)
        optimizer.step()
        with torch.no_grad():
            task.observe(batch, output)
        task.end_epoch(epoch)
    assert trained == {
        key for key, parameter in named_parameters(student, task) if parameter.requires_grad
    }
    assert state_dict_sha256(teacher) == untouched
    assert not teacher.training
    assert any(not torch.equal(value, start[key]) for key, value in student.state_dict().items())
    optimised = {id(parameter) for parameter in task.optimised_parameters()}
    for key, parameter in task.named_parameters():
        assert id(parameter) not in optimised or not torch.equal(parameter, own[key]), key


def named_parameters(*modules: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of all modules under unique names."""
    return [
        (f"{i}.{key}", value)
        for i, each in enumerate(modules)
        for key, value in each.named_parameters()
    ]
