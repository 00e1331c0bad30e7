"""An evaluation in bf16: what is computed in it, and what is not."""

from collections import Counter
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.config import AttackBudget, EvalConfig
from harness.evaluation import driver
from harness.evaluation.attack.chunk import adversarial_path
from harness.evaluation.attack.judge import margin
from tests.harness.evaluation.conftest import evaluated

COUNT = 40


def test_attacks_compute_in_bf16_and_verdicts_in_float32(network, digits, new_run, monkeypatch):
    # The estimate of the duration also queries the attacked network.
    monkeypatch.setattr(driver, "expected", lambda job, workers: None)
    model, passed = deepcopy(network), Counter()

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        passed[output.dtype] += len(output)

    model[3].register_forward_hook(count)
    config = EvalConfig(
        eps=0.13, attacks=("apgd-ce", "square"), limit=COUNT, precision="bf16", accelerate=False,
        budget=AttackBudget(n_iter=5, n_queries=20), save_adversarial="float32",
    )  # fmt: skip
    run = new_run("bf16")
    verdicts = evaluated(model, digits, run, config).verdicts
    (evaluation,) = run.evaluations()
    stages = evaluation.record["stages"].values()
    assert sum(stage["by_judge"] for stage in stages) == 0
    # Before the stages, one pass finds the images that bf16 itself gets wrong.
    assert passed[torch.bfloat16] == COUNT + sum(stage["forward"] for stage in stages)
    assert len(passed) == 2

    adversarial = torch.from_numpy(np.load(adversarial_path(evaluation.chunk_path(0))))
    labels, stored = digits.labels[:COUNT], torch.tensor(verdicts["margin"].to_numpy())
    assert 5 < (verdicts["broken_by"].notna()).sum() < COUNT - 5
    with torch.no_grad():
        exact = margin(network(adversarial), labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = margin(network(adversarial).float(), labels)
    torch.testing.assert_close(stored.float(), exact, rtol=0, atol=1e-5)
    assert ((rounded - exact).abs() > 1e-4).sum() > COUNT / 2
