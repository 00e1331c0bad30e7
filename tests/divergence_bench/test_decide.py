"""Which of two models is more robust: decisions, what they cost, and what they continue."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import divergence_bench as bench
from harness.errors import UserError
from harness.store.rundir import RunDirectory
from leaderboards.summary import run_summary
from leaderboards.table import ANY_TIME
from tests.divergence_bench.test_api import network

CLEAN: dict[str, Any] = {"attacks": "none", "quiet": True, "chunk_size": 40}


def damaged(share: float) -> nn.Module:
    """The network with every answer replaced where a pixel's value is below a quantile."""

    class Damaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.register_buffer("share", torch.tensor(share))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pixels = x.flatten(1).sum(1, keepdim=True) * 1000
            return torch.where(pixels % 1 < self.share, -1.0, 1.0) * self.network(x)

    return Damaged()


def test_a_clear_difference_is_decided_on_few_images_in_either_order(tmp_path: Path):
    good, bad = network(), damaged(0.5)
    decision = bench.decide(good, bad, "digits", results=tmp_path, **CLEAN)
    assert decision.winner == "a"
    last = decision.history[-1]
    assert 0 < last.low < last.difference < last.high
    assert last.n < decision.population == 360
    robust = decision.comparison.metrics["clean"]
    assert (robust.n, robust.difference) == (last.n, last.difference)
    assert robust.p_value <= 0.05
    assert bench.decide(bad, good, "digits", results=tmp_path, **CLEAN).winner == "b"


def test_a_second_call_attacks_nothing_and_a_smaller_alpha_continues(tmp_path: Path):
    models = network(), damaged(0.3)
    first = bench.decide(*models, "digits", results=tmp_path, **CLEAN)
    chunks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chunks/*")}
    again = bench.decide(*models, "digits", results=tmp_path, **CLEAN)
    assert again == first
    stricter = bench.decide(*models, "digits", alpha=1e-6, results=tmp_path, **CLEAN)
    assert stricter.history[-1].n > first.history[-1].n
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chunks/*")}
    assert {path: after[path] for path in chunks} == chunks
    assert len(after) > len(chunks)


def test_close_models_are_equal_within_the_margin_or_undecided_when_images_end(tmp_path: Path):
    models = network(), damaged(0.01)
    decision = bench.decide(*models, "digits", margin=0.1, results=tmp_path, **CLEAN)
    assert decision.winner == "equal"
    assert max(-decision.history[-1].low, decision.history[-1].high) <= 0.1
    stopped = bench.decide(*models, "digits", margin=0, n=40, results=tmp_path, **CLEAN)
    assert stopped.winner is None


def test_a_model_is_not_compared_with_itself(tmp_path: Path):
    with pytest.raises(UserError, match="compared with itself"):
        bench.decide(network(), network(), "digits", results=tmp_path, **CLEAN)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"alpha": 0}, "alpha is 0, not a probability between 0 and 1"),
        ({"alpha": 1}, "alpha is 1, not a probability"),
        ({"margin": -0.01}, "margin is -0.01: give 0 or more"),
        ({"n": 0}, "at most 0 images are to be used: give 1 or more"),
    ],
)
def test_a_rule_that_is_none_is_refused_before_any_work(rule: Any, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        bench.decide(network(), damaged(0.5), "digits", results=tmp_path, **rule, **CLEAN)
    assert not list(tmp_path.iterdir())


def test_the_command_line_decides_between_stored_models(tmp_path: Path, call):
    for share, name in ((0.0, "good"), (0.5, "bad")):
        source = tmp_path / f"{name}.py"
        source.write_text(
            "from tests.divergence_bench.test_decide import damaged\n\n\n"
            f"def make():\n    return damaged({share})\n"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        ended = call(
            "decide", "good:make", "bad:make", "--dataset", "digits", "--eps", "0", "--json",
            "--results", str(tmp_path / "results"),
        )  # fmt: skip
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["winner"] == "a"
    refused = call("decide", "good:make", "bad:make", "--results", str(tmp_path / "results"))
    assert refused.status == 2
    assert "neither model is a stored run: give --dataset" in refused.err


def test_the_protocol_of_a_stored_run_is_that_of_both_models(tmp_path: Path):
    made: dict[str, Any] = {"results": tmp_path, "quiet": True}
    budget = {"n_iter": 2}
    run = bench.train(
        "vanilla", "digits", epochs=1, train_limit=64, n=20, norm="L2", eps=0.02,
        attacks="fast", evaluation={"budget": budget}, **made,
    )  # fmt: skip
    decision = bench.decide(network(), run.run_id, "digits", n=40, chunk_size=20, **made)
    stored = RunDirectory(tmp_path, run.run_id).evaluation(decision.comparison.evaluations[1])
    protocol = stored.record["protocol"]
    assert (protocol["norm"], protocol["eps"]) == ("L2", 0.02)
    assert protocol["attacks"] == ["apgd-ce", "apgd-t"]
    assert protocol["budget"]["n_iter"] == 2
    again = bench.evaluate(run.run_id, "digits", n=20, **made)
    assert again.protocol["attack_version"] == run.protocol["attack_version"]
    assert (again.protocol["norm"], again.protocol["eps"]) == ("L2", 0.02)
    with pytest.raises(UserError, match=r"the norm is Linf, but the radius 0.02 was chosen for L2"):
        bench.decide(network(), run.run_id, "digits", norm="Linf", **made)
    with pytest.raises(UserError, match="one radius, not at 2"):
        bench.decide(run.run_id, network(), "digits", eps="0,8/255", **made)


def test_an_l2_radius_may_be_above_one(tmp_path: Path):
    decision = bench.decide(
        network(), damaged(0.5), "digits", norm="L2", eps=1.5, attacks=("apgd-ce",), n=20,
        budget={"n_iter": 1}, chunk_size=20, results=tmp_path, quiet=True,
    )  # fmt: skip
    assert decision.history


def test_precision_stops_early_and_says_so(tmp_path: Path):
    result = bench.evaluate(network(), "digits", precision=0.1, results=tmp_path, **CLEAN)
    assert result.robust.n < 360
    assert result.robust.high - result.robust.low <= 0.2
    assert result.protocol["partial"]
    assert "sequential" in result.protocol["attack_version"]
    summary = run_summary(tmp_path, result.run_id, result.evaluation_id)
    assert summary.table.interval_meaning == ANY_TIME
    assert summary.table.rows[0].rank == "partial"
