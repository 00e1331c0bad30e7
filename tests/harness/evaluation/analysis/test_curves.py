"""Accuracy over the radius: points, their order, and the flags that only a curve shows."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn
from typer.testing import CliRunner

from divergence_bench.cli.main import app
from harness.config import EvalConfig
from harness.data import ImageSet
from harness.evaluation.analysis import curves
from harness.evaluation.attack import job
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from tests.harness.evaluation.conftest import evaluated, save_resnet8

BASE = {"attacks": ("apgd-ce",), "limit": 40, "budget": {"n_iter": 20}}


def measured(
    model: nn.Module, images: ImageSet, run: RunDirectory, *several: float
) -> list[curves.Point]:
    """The curve of a model, evaluated at the radii in the order given."""
    for eps in several:
        last = evaluated(model, images, run, EvalConfig(**BASE, eps=eps))
    Database(run.results).record(run)
    return curves.curve_of(Database(run.results), run.run_id, last.evaluation_id)


def flags(points: list[curves.Point]) -> dict[float, tuple[str, ...]]:
    return {point.eps: point.flags for point in points if point.flags}


def test_a_curve_is_its_evaluations_and_can_be_queried(network, digits, new_run):
    run = new_run("curve")
    points = measured(network, digits, run, 0.0, 0.2, 0.1)
    assert [point.eps for point in points] == [0.0, 0.1, 0.2]
    clean, *accuracies = [point.robust for point in points]
    assert clean == run.evaluations()[0].record["metrics"]["clean"]["value"]
    assert clean > accuracies[0] > accuracies[1]
    assert flags(points) == {}
    rows = Database(run.results).query(
        "SELECT if(attacks = '', 0, eps) AS eps, value FROM evaluations JOIN metrics "
        "USING (run_id, evaluation_id) WHERE name = 'robust' ORDER BY eps"
    )
    assert list(zip(rows["eps"], rows["value"], strict=True)) == [
        (point.eps, point.robust) for point in points
    ]
    single = new_run("single")
    assert measured(network, digits, single, 0.05) == []
    assert measured(network, digits, single, 0.0) == []


@pytest.mark.parametrize("order", [(0.05, 0.15, 0.3), (0.3, 0.05, 0.15), (0.05, 0.15, 0.3, 0.4)])
def test_an_attack_that_fails_at_a_large_radius_is_flagged(
    order, network, digits, new_run, monkeypatch
):
    class Idle:
        def perturb(self, x: Tensor, y: Tensor) -> Tensor:
            return x

    made = job.make_attack

    def lazy(name: Any, model: Any, protocol: Any, *rest: Any) -> Any:
        return Idle() if protocol.eps >= 0.3 else made(name, model, protocol, *rest)

    monkeypatch.setattr(job, "make_attack", lazy)
    run = new_run("lazy")
    points = measured(network, digits, run, *order)
    large = [eps for eps in sorted(order) if eps >= 0.3]
    assert flags(points) == dict.fromkeys(large, (curves.RISES,))
    found = curves.flags_of(Database(run.results), [run.run_id])
    idle = [found.pop((run.run_id, point.evaluation_id)) for point in points[-len(large) :]]
    (flag,) = idle[0]
    assert all(len(each) == 1 for each in idle)
    assert not any(found.values())
    left = [round(40 * point.robust) for point in points]
    assert f"{left[3]} of 40 images survive at eps 0.3 but only {left[2]} at 0.15" in flag["detail"]


def test_survivors_at_a_radius_that_makes_all_images_grey_are_flagged(network, digits, new_run):
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x * 16).round() / 16)

    run = new_run("hidden")
    points = measured(Hidden().eval(), digits, run, 0.01, 0.5)
    assert curves.SURVIVES in points[-1].flags
    assert curves.SURVIVES not in points[1].flags
    honest = measured(network, digits, new_run("honest"), 0.01, 0.5)
    assert flags(honest) == {}


def test_stored_flags_of_a_curve_are_left_out(network, digits, new_run):
    """Earlier releases stored them, and they may be out of date."""
    run = new_run("older")
    measured(network, digits, run, 0.2)
    (evaluation,) = run.evaluations()
    names = ["randomised", curves.RISES, curves.SURVIVES]
    evaluation.update(flags=[{"name": name, "detail": "stored"} for name in names])
    Database(run.results).record(run)
    found = curves.flags_of(Database(run.results), [run.run_id])
    assert list(found.values()) == [[{"name": "randomised", "detail": "stored"}]]


def test_a_rise_of_a_few_images_is_random():
    small, large = SimpleNamespace(eps=0.1, survived=0), SimpleNamespace(eps=0.2, survived=5, n=100)
    assert curves.rises(small, large, 4, 0) is None
    assert curves.rises(small, large, 5, 0) is not None
    assert curves.rises(small, large, 0, 5) is None


def test_the_verb_measures_every_radius_and_does_none_again(tmp_path):
    save_resnet8(tmp_path / "model.pt", 1, 8, "digits")
    command = [
        "evaluate", str(tmp_path / "model.pt"), "--dataset", "digits", "--device", "cpu",
        "--eval-limit", "12", "--attacks", "apgd-ce", "--results", str(tmp_path / "results"),
        "--eps", "0.02,0,0.01",
    ]  # fmt: skip
    first = CliRunner().invoke(app, [*command, "--json"])
    assert first.exit_code == 0, first.output
    answer = json.loads(first.stdout)
    assert [point["eps"] for point in answer["curve"]] == [0.0, 0.01, 0.02]
    assert answer["protocol"]["eps"] == 0.02
    chunks = sorted((tmp_path / "results").rglob("chunks/*.parquet"))
    before = [path.stat().st_mtime_ns for path in chunks]
    assert len(chunks) == 3
    again = CliRunner().invoke(app, command)
    assert "curve: Linf" in again.stdout
    assert [path.stat().st_mtime_ns for path in chunks] == before
