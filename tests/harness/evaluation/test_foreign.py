"""Networks as users bring them, evaluated: the flags that they raise, and their verdicts."""

import copy
import json
import re

import pytest
import torch
from foreign import ACCEPTED, Around, classes
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.evaluation.attack.judge import NO_PREDICTION, margin, predict
from tests.harness.evaluation.conftest import evaluated

# Of masked gradients in general; they depend on the network and have tests of their own.
GENERAL = {"large-eps", "non-finite", "left-ball", "targeted-gap", "square-after-white-box"}
SHORT = EvalConfig(
    eps=0.1, attacks=("apgd-ce",), limit=24, chunk_size=24, budget=AttackBudget(n_iter=4)
)


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flags_and_plans_of_external_networks(name, digits, new_run):
    make, flags, plain, _ = ACCEPTED[name]
    run, lines = new_run("foreign"), []
    evaluated(make().eval(), digits, run, SHORT, notify=lines.append)
    record = run.evaluations()[0].record
    assert {flag["name"] for flag in record["flags"]} - GENERAL == flags
    assert (record["acceleration"]["tile"] is None) == plain
    if plain:
        (note,) = record["acceleration"]["notes"]
        assert note.startswith("not accelerated: ")
        assert f"note: {note}" in lines
    assert sum("not accelerated" in line for line in lines) == plain


def out_of_place(own: Around, x: Tensor) -> Tensor:
    return own.net((x - 0.1).relu())


def in_place(own: Around, x: Tensor) -> Tensor:
    x -= 0.1
    return own.net(torch.relu_(x))


def through_data(own: Around, x: Tensor) -> Tensor:
    x.data.sub_(0.1)
    return own.net(x.relu())


@pytest.mark.parametrize("writing", [in_place, through_data])
@pytest.mark.parametrize("accelerate", [True, False])
def test_a_network_that_writes_into_its_images_has_the_verdicts_of_one_that_does_not(
    writing, accelerate, network, digits, new_run
):
    found = [
        evaluated(Around(network, each), digits, new_run(each.__name__), SHORT,
                  accelerate=accelerate).verdicts
        for each in (out_of_place, writing)
    ]  # fmt: skip
    assert found[0]["broken_by"].notna().any()
    assert found[0].equals(found[1])


def test_logits_of_minus_infinity_rule_a_class_out_and_nothing_else(network, digits, new_run):
    def masked(own: Around, x: Tensor) -> Tensor:
        return own.net(x).index_fill(1, torch.tensor(9), -torch.inf)

    result = evaluated(Around(network, masked), digits, new_run("masked"), SHORT)
    with torch.no_grad():
        logits = network(digits.images_float(slice(24)))
    right = logits[:, :9].argmax(1) == digits.labels[:24]
    assert result.metrics["clean"]["value"] == right.double().mean().item()
    assert 0 < result.metrics["robust"]["value"] < 1


def test_what_is_a_prediction():
    inf, nan = torch.inf, torch.nan
    rows = {
        (1.0, 2.0, -inf): 1,
        (-inf, -inf, 0.0): 2,
        (-inf, -inf, -inf): NO_PREDICTION,
        (inf, 0.0, 0.0): NO_PREDICTION,
        (inf, -inf, 0.0): NO_PREDICTION,
        (nan, 1.0, 0.0): NO_PREDICTION,
        (nan, -inf, 0.0): NO_PREDICTION,
    }
    logits = torch.tensor(list(rows))
    assert predict(logits).tolist() == list(rows.values())
    margins = margin(logits, torch.tensor([1, 2, 0, 0, 0, 1, 2]))
    assert margins[0] == 1
    assert margins[1:].isnan().all()


@pytest.mark.parametrize("shift", [0, 4])
def test_a_model_for_normalised_images_is_told_from_one_for_plain_ones(
    shift, network, digits, new_run
):
    """Weights trained on standardised images were judged without their normalisation."""
    mean, std = digits.info.mean[0], digits.info.std[0]

    def answer(own: Around, x: Tensor) -> Tensor:
        darkest = x.amin((1, 2, 3))[:, None]
        return own.net(x * std + mean).roll(shift, 1) * (darkest < 0)

    standardised = Around(network, answer).eval()
    for foreign in (False, True):
        run, lines = new_run(f"{foreign}"), []
        evaluated(standardised, digits, run, SHORT, foreign=foreign, notify=lines.append)
        names = {flag["name"] for flag in run.evaluations()[0].record["flags"]}
        expected = {"near-chance" if shift else "normalisation"} if foreign else set()
        assert names & {"near-chance", "normalisation"} == expected
        advice = "set normalize to dataset|check weights, normalisation"
        assert bool(expected) == any(re.search(advice, line) for line in lines)
    run = new_run("plain")
    evaluated(network, digits, run, SHORT, foreign=True)
    assert not {"near-chance", "normalisation"} & {
        flag["name"] for flag in run.evaluations()[0].record["flags"]
    }


def test_a_stored_result_is_announced_with_its_date(network, digits, new_run):
    run, lines = new_run("stored"), []
    first = evaluated(network, digits, run, SHORT)
    assert first.stored_at is None
    again = evaluated(network, digits, run, SHORT, notify=lines.append)
    (line,) = lines
    assert again.stored_at in line
    assert again.stored_at == run.evaluations()[0].record["finished_at"]
    assert again.verdicts.equals(first.verdicts)


def test_an_untrained_network_is_near_chance(digits, new_run):
    torch.manual_seed(0)
    run = new_run("untrained")
    evaluated(classes(10)().eval(), digits, run, SHORT, foreign=True)
    flags = json.dumps(run.evaluations()[0].record["flags"])
    assert "no more than by guessing among 10 classes" in flags


def test_a_network_stays_as_it_was(network, digits, new_run):
    before = copy.deepcopy(network.state_dict())
    frozen = nn.Sequential(network)
    evaluated(frozen, digits, new_run("kept"), SHORT, foreign=True)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
