"""A compiled network computes the same function for every chunk, and an evaluation keeps to it."""

import pytest
import torch
from torch import nn

from harness.config import AttackBudget, EvalConfig
from harness.errors import UserError
from tests.harness.evaluation.conftest import evaluated

SHORT = AttackBudget(n_iter=20, n_queries=200)


@pytest.mark.slow
def test_verdicts_of_a_compiled_network(network, digits, new_run, interrupt):
    """Equal for one worker, two, and a resumption; nearly those of the network as it is."""
    plain = EvalConfig(eps=0.1, limit=200, chunk_size=50, budget=SHORT)
    config = plain.model_copy(update={"compile": True})
    alone = evaluated(network, digits, new_run("alone"), config)
    run = new_run("shared")
    shared = evaluated(network, digits, run, config, workers=2)
    assert alone.verdicts.equals(shared.verdicts)
    directory = run.evaluation(shared.evaluation_id)
    assert directory.record["acceleration"]["compiled"] is True
    interrupt(directory, 2)
    resumed = evaluated(network, digits, run, plain)
    assert resumed.verdicts.equals(alone.verdicts)
    eager = evaluated(network, digits, new_run("eager"), plain, accelerate=False)
    differ = alone.verdicts["broken_by"].isna() != eager.verdicts["broken_by"].isna()
    assert differ.mean() <= 0.005


def test_an_evaluation_that_was_begun_compiled_is_not_finished_otherwise(
    network, digits, new_run, interrupt, monkeypatch
):
    def no_compiler(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("no compiler\nand a long story")

    config = EvalConfig(eps=0.1, limit=20, chunk_size=10, attacks=("apgd-ce",), budget=SHORT)
    run = new_run("begun")
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    begun = evaluated(network, digits, run, config, compile=True)
    interrupt(run.evaluation(begun.evaluation_id), 1)
    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(UserError, match=r"cannot be compiled here \(RuntimeError: no compiler\)"):
        evaluated(network, digits, run, config)


def test_only_an_accelerated_network_is_compiled():
    with pytest.raises(ValueError, match="compile needs accelerate"):
        EvalConfig(compile=True, accelerate=False)
