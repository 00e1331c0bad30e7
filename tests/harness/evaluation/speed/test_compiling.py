"""A network is compiled where that pays, and then computes the same function for every chunk."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.config import EvalConfig
from harness.data import ImageSet
from harness.errors import UserError
from harness.evaluation import driver
from harness.evaluation.attack import job as work
from harness.evaluation.driver import EvaluationResult, evaluate
from harness.evaluation.speed import compiling
from harness.evaluation.speed.compiling import Passes, pays
from harness.evaluation.speed.plan import Plan, decide, rewritten
from harness.store.rundir import RunDirectory

pytestmark = pytest.mark.usefixtures("short_attacks")

CPU = torch.device("cpu")
MUCH = Passes(forward=1e9, gradient=1e9)
COLUMNS = ["row", "broken_by"]


def compile_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations compile, whatever it takes."""

    def plan(network: nn.Module, sample: Tensor, device: torch.device, *_: object) -> Plan:
        return replace(decide(network, sample, device), compiled=True)

    monkeypatch.setattr(driver, "decide", plan)


def test_a_little_work_is_not_worth_a_probe(network: nn.Module, digits: ImageSet) -> None:
    x = digits.images_float(slice(16))
    answer, probe, note = pays(network, x, Passes(forward=100, gradient=100))
    assert not answer
    assert probe is None
    assert note == "not compiled: about 0 s could be saved at most"


def test_the_clock_decides_and_the_plan_remembers_why(network: nn.Module, digits: ImageSet) -> None:
    x = digits.images_float(slice(16))
    plan = decide(network, x, CPU, MUCH)
    assert plan.probe is not None
    ways = "forward", "gradient"
    difference = [plan.probe[f"{way}_s"] - plan.probe[f"compiled_{way}_s"] for way in ways]
    assert plan.probe["saves_s"] == pytest.approx(1e9 * sum(difference))
    assert plan.compiled == (plan.probe["saves_s"] > plan.probe["compiling_s"])
    assert Plan.from_dict(plan.as_dict()) == plan


def test_what_is_slower_compiled_is_not_compiled(digits: ImageSet) -> None:
    x = digits.images_float(slice(16))
    # A single view of the images: nothing is to be won, and a compiled call costs more than it.
    answer, probe, note = pays(nn.Flatten(), x, Passes(forward=1e12, gradient=0))
    assert not answer
    assert probe is not None
    assert probe["saves_s"] < probe["compiling_s"]
    assert note == "not compiled: it would take longer than it saves"


def no_compiler(*_: object) -> Tensor:
    raise RuntimeError("no compiler\nand a long story")


def test_a_network_that_cannot_be_compiled_runs_as_it_is(
    network: nn.Module, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "compiled", lambda network: no_compiler)
    plan = decide(network, digits.images_float(slice(16)), CPU, MUCH)
    assert (plan.compiled, plan.probe) == (False, None)
    assert plan.notes == ("not compiled: RuntimeError: no compiler",)


@pytest.fixture(scope="module")
def eager(
    network: nn.Module, digits: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> EvaluationResult:
    run = RunDirectory.create(tmp_path_factory.mktemp("eager"), "eager")
    run.update(kind="loaded", dataset="digits")
    config = EvalConfig(eps=0.1, limit=200, chunk_size=50, accelerate=False)
    return evaluate(network, digits, config, run, device=CPU)


@pytest.mark.slow
def test_verdicts_of_a_compiled_network(
    network: nn.Module,
    digits: ImageSet,
    eager: EvaluationResult,
    new_run: Callable[[str], RunDirectory],
    interrupt: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal for one worker, two, and a resumption; nearly those of the network as it is."""
    compile_all(monkeypatch)
    config = EvalConfig(eps=0.1, limit=200, chunk_size=50)
    alone = evaluate(network, digits, config, new_run("alone"), device=CPU)
    run = new_run("shared")
    two = config.model_copy(update={"workers": 2})
    shared = evaluate(network, digits, two, run, device=CPU)
    assert alone.verdicts.equals(shared.verdicts)
    directory = run.evaluation(shared.evaluation_id)
    assert directory.record["acceleration"]["compiled"] is True
    interrupt(directory, 2)
    monkeypatch.undo()
    resumed = evaluate(network, digits, config, run, device=CPU)
    assert resumed.verdicts.equals(alone.verdicts)
    differ = alone.verdicts["broken_by"].isna() != eager.verdicts["broken_by"].isna()
    assert differ.mean() <= 0.005


def test_what_was_begun_compiled_is_not_finished_otherwise(
    network: nn.Module,
    digits: ImageSet,
    new_run: Callable[[str], RunDirectory],
    interrupt: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = EvalConfig(eps=0.1, limit=20, chunk_size=10, attacks=("apgd-ce",))
    run = new_run("begun")
    compile_all(monkeypatch)
    monkeypatch.setattr(work, "apply", rewritten)
    begun = evaluate(network, digits, config, run, device=CPU)
    interrupt(run.evaluation(begun.evaluation_id), 1)
    monkeypatch.setattr(driver, "apply", lambda model, plan: no_compiler)
    with pytest.raises(UserError, match=r"cannot be compiled here \(RuntimeError: no compiler\)"):
        evaluate(network, digits, config, run, device=CPU)
