"""Every stage's verdicts against the maintainers' AutoAttack, called as its users call it."""

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.state import EvaluationState
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.data import ImageSet
from harness.evaluation.attack.protocol import chunk_seed
from harness.evaluation.driver import evaluate
from harness.store.rundir import RunDirectory

CPU = torch.device("cpu")
QUICK = AttackBudget(n_iter=12, n_queries=120)


def reference_stages(
    model: nn.Module, x: Tensor, y: Tensor, config: EvalConfig, seed: int
) -> list[str | None]:
    """Which stage of the reference broke each image, from its state after each stage."""
    given, (eps,) = config.budget, config.eps
    attack = AutoAttack(model, norm=config.norm, eps=eps, seed=seed, version="standard")
    for part in (attack.apgd, attack.apgd_targeted, attack.fab):
        part.n_iter = given.n_iter
    for part in (attack.apgd, attack.apgd_targeted):
        # Derived from n_iter at construction, which the entry point does not let us set.
        part.n_iter_2 = max(int(0.22 * given.n_iter), 1)
        part.n_iter_min = max(int(0.06 * given.n_iter), 1)
        part.size_decr = max(int(0.03 * given.n_iter), 1)
    attack.square.n_queries = given.n_queries
    with torch.no_grad():
        wrong = (model(x).argmax(1) != y).tolist()
    broken_by: list[str | None] = ["clean" if w else None for w in wrong]
    finish = EvaluationState.add_run_attack

    def watched(state: EvaluationState, stage: str) -> None:
        for row, robust in enumerate(state.robust_flags.tolist()):
            if not robust and broken_by[row] is None:
                broken_by[row] = stage
        finish(state, stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvaluationState, "add_run_attack", watched)
        _, predicted = attack.run_standard_evaluation(x, y, batch_size=len(x))
    assert [stage is None for stage in broken_by] == (predicted == y).tolist()
    return broken_by


def parity_config(norm: str, eps: float, chunk: int, limit: int) -> EvalConfig:
    return EvalConfig(norm=norm, eps=eps, chunk_size=chunk, limit=limit, budget=QUICK)


def reference_chunks(model: nn.Module, images: ImageSet, config: EvalConfig) -> list[str | None]:
    """The reference's verdicts, chunk by chunk with each chunk's seed."""
    found: list[str | None] = []
    rows = torch.arange(config.limit or len(images))
    for number, part in enumerate(rows.split(config.chunk_size)):
        seed = chunk_seed(config.seed, number)
        x, y = images.images_float(part), images.labels[part]
        found += reference_stages(model, x, y, config, seed)
    return found


@pytest.fixture(scope="module", params=[("Linf", 0.12), ("L2", 0.9)], ids=["Linf", "L2"])
def ten(
    request: pytest.FixtureRequest, network: nn.Module, digits: ImageSet
) -> tuple[EvalConfig, list[str | None]]:
    """A protocol, and the reference's verdicts on two chunks of digits."""
    config = parity_config(*request.param, 50, 100)
    return config, reference_chunks(network, digits, config)


@pytest.fixture(scope="module", params=[("Linf", 0.12), ("L2", 0.9)], ids=["Linf", "L2"])
def hundred(
    request: pytest.FixtureRequest, pair_network: nn.Module, digit_pairs: ImageSet
) -> tuple[EvalConfig, list[str | None]]:
    """A protocol, and the reference's verdicts on pairs of digits."""
    config = parity_config(*request.param, 64, 64)
    return config, reference_chunks(pair_network, digit_pairs, config)


def ours(
    model: nn.Module, images: ImageSet, config: EvalConfig, run: RunDirectory, accelerate: bool
) -> list[str | None]:
    config = config.model_copy(update={"accelerate": accelerate})
    (result,) = evaluate(model, images, config, run, device=CPU)
    return [stage if isinstance(stage, str) else None for stage in result.verdicts["broken_by"]]


@pytest.mark.parametrize("accelerate", [False, True])
def test_each_stage_breaks_the_same_images(accelerate, ten, network, digits, new_run):
    config, expected = ten
    assert {"clean", "apgd-ce", None} <= set(expected)
    assert "apgd-t" in expected or "fab-t" in expected
    assert ours(network, digits, config, new_run("ours"), accelerate) == expected


@pytest.mark.parametrize("accelerate", [False, True])
def test_each_stage_breaks_the_same_images_of_a_hundred_classes(
    accelerate, hundred, pair_network, digit_pairs, new_run
):
    config, expected = hundred
    assert {"apgd-ce", None} <= set(expected)
    assert "apgd-t" in expected or "fab-t" in expected
    assert ours(pair_network, digit_pairs, config, new_run("ours"), accelerate) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.13), ("L2", 0.9)])
def test_standard_budget(norm, eps, network, digits, new_run):
    config = EvalConfig.model_validate(
        {"norm": norm, "eps": eps, "chunk_size": 120, "limit": 120, "accelerate": False}
    )
    (result,) = evaluate(network, digits, config, new_run("ours"), device=CPU)
    rows = torch.arange(120)
    expected = reference_stages(
        network, digits.images_float(rows), digits.labels[rows], config, chunk_seed(config.seed, 0)
    )
    found = [stage if isinstance(stage, str) else None for stage in result.verdicts["broken_by"]]
    assert found == expected
