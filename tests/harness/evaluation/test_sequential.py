"""Evaluations in random order: they stop early, grow, and are never taken for whole ones."""

import pytest
import torch

from harness.config import AttackBudget, EvalConfig
from harness.errors import UserError
from harness.evaluation.analysis.sequential import confidence_interval
from harness.evaluation.attack.executors import InProcess
from harness.evaluation.driver import evaluate
from harness.experiment import resolve
from tests.harness.evaluation.conftest import evaluated, watched

CPU = torch.device("cpu")
RANDOM = EvalConfig(
    eps=0.13, attacks=("apgd-ce",), chunk_size=20, order="random", budget=AttackBudget(n_iter=5)
)


@pytest.fixture
def narrow(network, digits, new_run):
    """An evaluation that stopped as soon as its interval reached 12 points to either side."""
    run = new_run("narrow")
    return run, evaluated(network, digits, run, RANDOM, half_width=0.12)


def test_it_stops_at_the_first_chunk_with_a_narrow_interval(narrow, digits):
    run, result = narrow
    robust = result.verdicts["broken_by"].isna().to_numpy()
    n = len(robust)
    assert n < len(digits)
    assert n % 20 == 0
    low, high = confidence_interval(robust, len(digits))
    before = confidence_interval(robust[:-20], len(digits))
    assert high - low <= 0.24 < before[1] - before[0]
    expected = {"value": robust.mean(), "n": n, "low": low, "high": high}
    assert result.metrics["robust"] == expected
    assert run.evaluations()[0].record["metrics"]["robust"] == expected


def test_it_is_labelled_sequential_and_partial_and_never_autoattack(narrow, digits):
    (evaluation,) = narrow[0].evaluations()
    protocol = evaluation.record["protocol"]
    assert protocol["partial"]
    assert not protocol["standard"]
    assert protocol["attack_version"].endswith(" sequential")
    assert protocol["n"] == len(narrow[1].verdicts)
    assert protocol["population"] == len(digits)


def test_more_precision_continues_and_less_changes_nothing(narrow, network, digits):
    run, first = narrow
    (evaluation,) = run.evaluations()
    chunk = evaluation.chunk_path(0)
    written = chunk.stat().st_mtime_ns
    looser = evaluated(network, digits, run, RANDOM, half_width=0.2)
    assert len(looser.verdicts) == len(first.verdicts)
    closer = evaluated(network, digits, run, RANDOM, half_width=0.09)
    assert closer.evaluation_id == first.evaluation_id
    assert len(closer.verdicts) > len(first.verdicts)
    assert closer.verdicts[: len(first.verdicts)].equals(first.verdicts)
    assert chunk.stat().st_mtime_ns == written
    whole = evaluated(network, digits, run, RANDOM)
    assert sorted(whole.verdicts["index"]) == digits.rows.tolist()
    accuracy = whole.metrics["robust"]
    assert accuracy["low"] == pytest.approx(accuracy["value"]) == accuracy["high"]


@pytest.mark.parametrize("rule", [{"half_width": 0.2}, {"n_max": 20}])
def test_saving_images_later_keeps_every_verdict_whatever_the_rule_is_now(
    rule, narrow, network, digits
):
    run, first = narrow
    saved = evaluated(network, digits, run, RANDOM, **rule, save_adversarial="uint8")
    assert saved.verdicts.equals(first.verdicts)
    (evaluation,) = run.evaluations()
    assert evaluation.record["protocol"]["n"] == len(first.verdicts)
    assert evaluation.record["adversarial"]["kept"] == "uint8"
    assert 20 * evaluation.saved_images() == len(first.verdicts)


def test_the_order_is_random_and_follows_from_the_seed(network, digits, new_run):
    def order(run: str, seed: int) -> list[int]:
        result = evaluated(network, digits, new_run(run), RANDOM, n_max=40, seed=seed)
        return result.verdicts["index"].tolist()

    first = order("a", 0)
    assert first == order("b", 0) != order("c", 1)
    assert first != sorted(first)
    assert len(set(first)) == 40


def test_as_many_chunks_as_workers_are_attacked_before_the_next_look(
    narrow, network, digits, new_run
):
    config = RANDOM.model_copy(update={"half_width": 0.12, "workers": 4})
    (result,) = evaluate(network, digits, config, new_run("four"), device=CPU, executor=InProcess())
    n = len(narrow[1].verdicts)
    assert len(result.verdicts) == -(-n // 80) * 80
    assert result.verdicts["broken_by"][:n].equals(narrow[1].verdicts["broken_by"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"half_width": 0.01}, "need order=random"),
        ({"n_max": 100}, "need order=random"),
        ({"order": "random", "limit": 50}, "give n_max or limit, not both"),
        ({"order": "random", "half_width": 0.5}, "half_width"),
    ],
)
def test_rules_without_random_order_are_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        resolve.evaluation({}, settings, ())


def test_progress_never_falls(network, digits, new_run):
    config = RANDOM.model_copy(update={"half_width": 0.12})
    assert watched(network, digits, new_run("watched"), config)
