"""Every method on every pair: what recipes say, and two steps of each on CIFAR-sized images."""

from functools import lru_cache
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from harness.config import OptimizerConfig, RunConfig
from harness.experiment.resolve import resolve, teacher_run
from harness.method import Batch, TaskContext
from harness.models import build_model
from harness.models.checkpoint import state_dict_sha256
from harness.models.normalize import Normalized
from harness.registry import METHODS
from harness.training.modes import ReplicaForward
from harness.training.optimizer import build_optimizer
from leaderboards.printed import load_reported
from methods._pairs import CIFAR_PAIRS, PAIRS, natural

NAMES = [name for name in METHODS.names() if METHODS.get(name).card.family == "distillation"]
# No published settings for ImageNet.
CIFAR_ONLY = {"fitnet", "rkd"}
PRINTED_NAMES = {"ResNet34": "imagenet-resnet34", "ResNet18": "imagenet-resnet18"}
PRINTED_NAMES |= {"MobileNetV1": "mobilenet-v1", "MobileNet-V2": "mobilenet-v2"}
PRINTED_NAMES |= {"ShuffleNet-V1": "shufflenet-v1", "ShuffleNet-V2": "shufflenet-v2"}


def printed_pairs() -> "pd.DataFrame":
    frame = load_reported()
    return frame[frame["table"].isin((3, 5, 7)) & (frame["metric"] == "teacher_top1")]


def architecture(printed: str, table: int) -> str:
    if table == 3 and printed == "ResNet50":
        return "imagenet-resnet50"
    return PRINTED_NAMES.get(printed, printed.lower())


def test_eleven_methods() -> None:
    expected = {"kd", "dkd", "ikl-kd", "dkl-kd", "gkl-kd", "fitnet", "attention", "rkd", "crd"}
    assert expected | {"ofd", "reviewkd"} == set(NAMES)
    assert all(METHODS.get(name).card.needs_teacher for name in NAMES)


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=lambda pair: pair.name)
def test_recipe_of_a_pair_is_the_literatures_training(name: str, pair: Any) -> None:
    recipes = METHODS.get(name).recipes
    if name in CIFAR_ONLY and pair.table == 3:
        assert pair.recipe not in recipes
        return
    config = RunConfig.model_validate({"method": name, **recipes[pair.recipe]()})
    assert (config.data.name, config.model.arch) == (pair.dataset, pair.student)
    assert config.model.normalize
    assert config.training.attack is None
    assert config.evaluation.attacks == ()
    assert config.teacher is not None
    assert config.teacher.arch == pair.teacher
    assert config.teacher.minimum == pytest.approx(pair.teacher_top1 / 100 - 0.02)
    batch, lr, milestones = 64, 0.05, (150, 180, 210)
    if pair.table == 3:
        batch = {"crd": 256, "reviewkd": 256, "ofd": 128}.get(name, 512)
        lr, milestones = 0.2 * batch / 512, (30, 60, 90)
    elif pair.student.startswith(("mobilenet", "shufflenet")):
        lr = 0.01
    optimizer = config.training.optimizer
    assert config.training.batch_size == batch
    assert optimizer.lr == pytest.approx(lr)
    assert (optimizer.schedule, optimizer.milestones) == ("steps", milestones)


@pytest.mark.parametrize("name", NAMES)
def test_teachers_are_natural_runs_of_the_same_data(name: str) -> None:
    for recipe in METHODS.get(name).recipes:
        config = resolve(name, recipe=recipe)
        assert config.teacher is not None
        teacher = teacher_run(config)
        assert (teacher.method, teacher.model.arch) == ("vanilla", config.teacher.arch)
        assert teacher.data == config.data
        assert teacher.model.normalize == config.model.normalize
        assert teacher.evaluation.attacks == ()
        if config.data.name in ("cifar10", "cifar100"):
            expected = natural(config.data.name, config.teacher.arch)["training"]["optimizer"]
            assert teacher.training.optimizer == OptimizerConfig.model_validate(expected)
            assert teacher.training.epochs == 240
        if config.data.name == "imagenet":
            assert config.teacher.weights == f"torchvision:{config.teacher.arch[9:]}"


@lru_cache(maxsize=1)
def networks(name: str) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    """The pair's teacher, its student, and the student's first state."""
    pair = PAIRS[name]
    torch.manual_seed(0)
    built = [
        Normalized(build_model(arch, 100), (0.5,) * 3, (0.25,) * 3)
        for arch in (pair.teacher, pair.student)
    ]
    teacher, student = built
    teacher.eval().requires_grad_(False)
    return teacher, student, {k: v.clone() for k, v in student.state_dict().items()}


# Methods of logits do the same on every pair, so two pairs are enough for them.
LOGIT_METHODS = {"kd", "dkd", "ikl-kd", "dkl-kd", "gkl-kd"}
STEPPED = [
    (pair, name)
    for pair in CIFAR_PAIRS
    for name in NAMES
    if name not in LOGIT_METHODS or pair in ("resnet56-resnet20", "vgg13-mobilenet-v2")
]


@pytest.mark.parametrize(("pair", "name"), STEPPED)
def test_two_steps(pair: str, name: str) -> None:
    teacher, student, start = networks(pair)
    student.load_state_dict(start)
    untouched = state_dict_sha256(teacher)
    method = METHODS.get(name)
    config = RunConfig.model_validate({"method": name, **method.recipes[PAIRS[pair].recipe]()})
    params = config.params | ({"negatives": 16} if name == "crd" else {})
    labels = torch.arange(40) % 10
    context = TaskContext(
        num_classes=100,
        epochs=240,
        train_size=len(labels),
        device=torch.device("cpu"),
        teacher=teacher,
        student=student,
        train_labels=labels,
    )
    task = method.task(method.params(**params), context)
    optimizer = build_optimizer(student, task.parameters(), config.training.optimizer)
    forward = ReplicaForward(student, 1)
    own = {key: value.clone() for key, value in task.state_dict().items()}
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = teacher(x) if task.needs_teacher_logits else None
    for step in range(2):
        index = torch.tensor([step, step + 3])
        batch = Batch(x=x, y=labels[index], index=index, epoch=20, teacher_output=logits)
        student.train()
        task.train()
        output = task.loss(forward, batch)
        assert bool(output.loss.isfinite())
        optimizer.zero_grad()
        output.loss.backward()
        parameters = [*student.parameters(), *task.parameters()]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)
        optimizer.step()
        with torch.no_grad():
            task.observe(batch, output)
    task.end_epoch(20)
    assert state_dict_sha256(teacher) == untouched
    assert not teacher.training
    assert any(not torch.equal(value, start[key]) for key, value in student.state_dict().items())
    trained = [key for key, _ in task.named_parameters()]
    assert all(not torch.equal(task.state_dict()[key], own[key]) for key in trained)
