"""TAKD: a chain of three runs that are created, shared and resumed like any run."""

from pathlib import Path

import pytest
import torch
from distilling import TINY, Lines, assert_same_weights, trained
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from harness.experiment.resolve import resolve, teacher_run
from harness.models import build_model
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from methods.distillation.takd import ASSISTANTS
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step

BRIEF = {"training.epochs": 2, "data.train_limit": 96, "training.batch_size": 32}
CHAIN = {f"teacher.config.{name}": value for name, value in BRIEF.items()}
CHAIN |= {f"teacher.config.teacher.config.{name}": value for name, value in BRIEF.items()}
CHAIN |= {"teacher.minimum": 0.0, "teacher.config.teacher.minimum": 0.0}


def methods_run(results: Path) -> list[str]:
    return sorted(folder.name.rsplit("-", 1)[0] for folder in (results / "runs").iterdir())


def test_loss_is_kds(step: Step) -> None:
    s, t, y = step.student.outputs.logits, step.batch.teacher_logits, step.batch.y
    kl = kl_div(log_softmax(s / 4, 1), softmax(t / 4, 1), reduction="batchmean")
    expected = 0.1 * cross_entropy(s, y) + 0.9 * 16 * kl
    assert_same_loss(step.loss(step.make_task("takd")), expected, *step.student.leaves())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return trained(tmp_path_factory.mktemp("whole"), "takd", **CHAIN)


def test_assistant_and_teacher_are_runs_that_others_share(whole: RunDirectory) -> None:
    results = whole.path.parents[1]
    assert methods_run(results) == ["kd", "takd", "vanilla"]
    # The assistant is the `kd` run for the same pair.
    config = teacher_run(resolve("takd", options={**TINY, "results": results, **CHAIN}))
    assert config.method == "kd"
    assert config.run_id == whole.record["teacher_facts"]["weights"]
    another = Lines("epoch 1/")
    with pytest.raises(KeyboardInterrupt):
        trained(results, "takd", another, seed=1, **CHAIN)
    assert not another.about("is trained first")


STOPS = ["the teacher, resnet20", "the teacher resnet20", "the teacher resnet14"]


@pytest.mark.parametrize(
    "after", [STOPS[1], *(pytest.param(stop, marks=pytest.mark.slow) for stop in STOPS[::2])]
)
def test_a_chain_that_stops_anywhere_ends_with_the_same_weights(
    whole: RunDirectory, tmp_path: Path, after: str
) -> None:
    """It stops while training the assistant, or in slow tests the teacher or the student."""
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "takd", Lines("epoch 1/2", after=after), **CHAIN)
    assert_same_weights(whole, trained(tmp_path, "takd", **CHAIN))
    assert methods_run(tmp_path) == ["kd", "takd", "vanilla"]


def test_assistants_are_between_teacher_and_student() -> None:
    def size(arch: str) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build_model(arch, 100).parameters())

    for pair, assistant in ASSISTANTS.items():
        recipe = next(r for r in METHODS.get("takd").recipes if r.endswith(f"/{pair}"))
        config = resolve("takd", recipe=recipe)
        assert config.teacher is not None
        middle = teacher_run(config)
        assert middle.teacher is not None
        assert config.teacher.arch == assistant
        assert size(middle.teacher.arch) > size(assistant) > size(config.model.arch)


def test_a_published_pair_serves_as_assistant() -> None:
    """The kd run of a Table 5 pair is trained once, for that table and as an assistant."""
    config = resolve("takd", recipe="table5/wrn-40-2-wrn-40-1")
    published = resolve("kd", recipe="table5/wrn-40-2-wrn-16-2")
    assert teacher_run(config).run_id == published.run_id
