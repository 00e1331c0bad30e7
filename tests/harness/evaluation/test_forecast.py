"""What an evaluation is expected to take, and progress that never falls."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.config import AttackBudget, EvalConfig
from harness.evaluation import driver
from harness.evaluation import forecast as forecasts
from harness.evaluation.attack.chunk import read_chunk
from harness.evaluation.attack.cost import Forecast, StageCost
from harness.evaluation.attack.executors import InProcess
from harness.evaluation.attack.job import Job
from harness.evaluation.driver import evaluate
from harness.evaluation.forecast import expected, forecast
from harness.evaluation.guards import untouched
from harness.evaluation.progress import for_radius
from harness.evaluation.speed.plan import PLAIN
from harness.progress import no_progress
from tests.harness.evaluation.conftest import watched
from tests.harness.evaluation.speed.test_batching import Small

CPU = torch.device("cpu")
SHORT = AttackBudget(n_iter=5, n_queries=30, n_target_classes=2)


class Clocked(nn.Module):
    """Counts simulated seconds: a part for each pass, and a part for each image.

    Until it is ``warm`` its first pass of each size, and one in ten others, take much longer.
    """

    def __init__(self, network: nn.Module, pass_s: float, image_s: float) -> None:
        super().__init__()
        self.network, self.pass_s, self.image_s, self.seconds = network, pass_s, image_s, 0.0
        self.warm, self.sizes, self.passes = True, set(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seconds = self.pass_s + self.image_s * len(x)
        self.passes += 1
        slow = not self.warm and (len(x) not in self.sizes or self.passes % 10 == 0)
        self.sizes.add(len(x))
        self.seconds += 20 * seconds if slow else seconds
        return self.network(x)


@pytest.fixture
def new_job(digits, new_run):
    """Makes a job of standard stages on 120 images, in chunks of 60."""

    def make(network: nn.Module, sha256: str, eps: float) -> Job:
        budget = AttackBudget(n_iter=20, n_queries=120, n_target_classes=5)
        config = EvalConfig(eps=eps, limit=120, chunk_size=60, budget=budget, accelerate=False)
        directory = new_run("job").evaluation("some")
        return Job(network, sha256, digits, config.protocols()[0], PLAIN, directory, CPU)

    return make


# Radii at which most of the images survive, a half, and a few; of a network whose passes cost
# the same whatever they hold, as of small ones, and of one whose images do.
@pytest.mark.parametrize(
    ("eps", "cost"), [(0.03, (0.01, 0.1)), (0.1, (1.0, 0.02)), (0.17, (0, 1)), (0.22, (1.0, 0.02))]
)
def test_expected_seconds_are_within_30_per_cent_whatever_survives(network, new_job, eps, cost):
    clocked = Clocked(network, *cost)
    with untouched(clocked) as sha256:
        job = new_job(clocked, sha256, eps)
        clocked.warm = False
        found = forecast(job, (), lambda: clocked.seconds)
        assert found is not None
        clocked.seconds, clocked.warm = 0.0, True
        InProcess().attack(job, range(job.chunks), no_progress)
    assert found.wall_s([60, 60], 1) == pytest.approx(clocked.seconds, rel=0.3)


def test_too_little_memory_for_the_sample_does_not_halve_the_batches_of_the_attacks(
    network, new_job
):
    small = Small(Clocked(network, 0.01, 0.1), 32)
    with untouched(small) as sha256:
        job = new_job(small, sha256, 0.1)
        job.protocol = job.protocol.model_copy(update={"attacks": ("apgd-ce",)})
        assert forecast(job, (), lambda: small.inner.seconds) is not None
        assert small.refused
        assert job.attacked.batching.limit is None
        InProcess().attack(job, [0], no_progress)
    _, facts = read_chunk(job.directory.chunk_path(0))
    assert "clean" in facts["out_of_memory"]


def test_finished_chunks_say_what_the_others_take(network, digits, new_run, interrupt, monkeypatch):
    config = EvalConfig(eps=0.1, limit=75, chunk_size=25, budget=SHORT)
    run, lines = new_run("some"), []
    monkeypatch.setattr(forecasts, "WORTHWHILE_S", math.inf)
    (result,) = evaluate(network, digits, config, run, device=CPU, notify=lines.append)
    assert lines == []  # too short to be worth an estimate
    facts = run.evaluation(result.evaluation_id).record["stages"]
    interrupt(run.evaluation(result.evaluation_id), 2)
    monkeypatch.setattr(forecasts, "WORTHWHILE_S", 0.0)
    evaluate(network, digits, config, run, device=CPU, notify=lines.append)
    (line,) = lines
    assert line.startswith("about ")
    assert line.endswith(" to attack 25 images")
    attacked = facts["apgd-ce"]["attacked"]
    whole = Forecast.from_chunks(75, [{"stages": facts}], config.attacks)
    assert whole.clean == attacked / 75
    assert whole.stages[0].survival == 1 - facts["apgd-ce"]["broken"] / attacked
    seconds = sum(stage["seconds"] for stage in facts.values())
    assert whole.wall_s([75], 1) == pytest.approx(seconds)
    assert whole.wall_s([25, 25, 25], 2) == pytest.approx(seconds * 2 / 3)


def test_an_evaluation_that_grows_says_it_once(network, digits, new_run, monkeypatch):
    monkeypatch.setattr(forecasts, "WORTHWHILE_S", 0.0)
    run, lines = new_run("growing"), []
    for n_max in (10, 20, 30):
        config = EvalConfig(eps=0.1, order="random", chunk_size=10, n_max=n_max, budget=SHORT)
        evaluate(network, digits, config, run, device=CPU, notify=lines.append)
    assert [line.partition(" to attack ")[2] for line in lines] == ["10 images"]


def test_a_stage_that_finds_nobody_left_takes_nothing():
    costs = Forecast(0.5, (StageCost(0.1, 10.0, 1.0), StageCost(1.0, 100.0, 0.0)))
    # 10 images, of which one is left; then 2 images, of which one is left in one chunk of five.
    assert costs.wall_s([20], 1) == pytest.approx(10 + 10 + 100)
    assert costs.wall_s([4], 1) == pytest.approx(10 + 2 + 0.2 * 100)
    assert costs.wall_s([0], 1) == 0


def test_an_estimate_changes_no_verdict(network, digits, new_run, monkeypatch):
    config = EvalConfig(eps=0.1, limit=40, budget=SHORT)
    (plain,) = evaluate(network, digits, config, new_run("plain"), device=CPU)
    monkeypatch.setattr(forecasts, "WORTHWHILE_S", 0.0)
    lines: list[str] = []
    run = new_run("estimated")
    (estimated,) = evaluate(network, digits, config, run, device=CPU, notify=lines.append)
    assert lines[0].startswith("about ")
    assert lines[0].endswith(" to attack 40 images")
    assert plain.verdicts.equals(estimated.verdicts)


@pytest.mark.parametrize(("workers", "radii"), [(1, (0.05, 0.2)), (2, (0.1,))])
def test_progress_names_the_chunk_and_never_falls(
    network, digits, new_run, workers, radii, monkeypatch
):
    monkeypatch.setattr(forecasts, "WORTHWHILE_S", 0.0)
    config = EvalConfig(eps=radii, limit=48, chunk_size=16, budget=SHORT, workers=workers)
    seen = watched(network, digits, new_run("watched"), config)
    starts = ["eps 0.05, chunk ", "eps 0.2, chunk "] if len(radii) > 1 else ["chunk "]
    named = {note.partition(":")[0] for _, note in seen if note}
    assert named == {f"{start}{number}" for start in starts for number in range(3)}


@pytest.mark.parametrize("survival", [0.0, 1.0])
def test_progress_never_falls_where_the_forecast_is_wrong(
    network, digits, new_run, survival, monkeypatch
):
    wrong = Forecast(1.0, tuple(StageCost(survival, 0.0, 1.0) for _ in range(4)))

    def mislead(job: Job, workers: int | None) -> None:
        job.forecast = wrong

    monkeypatch.setattr(driver, "expected", mislead)
    config = EvalConfig(eps=0.1, limit=32, chunk_size=16, budget=SHORT)
    seen = watched(network, digits, new_run("misled"), config)
    assert seen[0][0] == 0


def test_nothing_is_expected_where_the_workers_are_not_known(network, new_job):
    with untouched(network) as sha256:
        job = new_job(network, sha256, 0.1)
        assert expected(job, None) is None
        assert (
            expected(replace(job, protocol=job.protocol.model_copy(update={"attacks": ()})), 1)
            is None
        )


def test_radius_0_takes_no_part_of_the_progress():
    seen = []
    for number in range(3):
        for_radius(lambda share, note: seen.append((share, note)), number, (0, 0.1, 0.2))(1.0, "x")
    assert seen == [(0.0, "eps 0, x"), (0.5, "eps 0.1, x"), (1.0, "eps 0.2, x")]
