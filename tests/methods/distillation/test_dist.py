"""DIST against NumPy's correlations and a plain transcription."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.registry import METHODS
from methods.distillation.dist import correlation_loss
from tests.methods.conftest import assert_same_loss
from tests.methods.distillation.conftest import Step


def correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.sum() / len(a), b - b.sum() / len(b)
    return (a @ b) / ((a @ a).sqrt() * (b @ b).sqrt() + 1e-8)


def test_loss_is_the_plain_one(step: Step) -> None:
    s, t = step.student.outputs.logits, step.batch.teacher_logits
    p, q = ((x / 2.5).exp() / (x / 2.5).exp().sum(1, keepdim=True) for x in (s, t))
    inter = sum(1 - correlation(*rows) for rows in zip(p, q, strict=True)) / len(p)
    intra = sum(1 - correlation(*columns) for columns in zip(p.T, q.T, strict=True)) / p.shape[1]
    expected = 0.5 * cross_entropy(s, step.batch.y) + 2.5**2 * (3.0 * inter + 7.0 * intra)
    params = {"label_weight": 0.5, "inter_weight": 3.0, "intra_weight": 7.0, "temperature": 2.5}
    assert_same_loss(step.loss(step.make_task("dist", **params)), expected, *step.student.leaves())


def test_correlations_are_numpys() -> None:
    torch.manual_seed(1)
    s, t = torch.randn(2, 6, 9, dtype=torch.float64)
    p, q = s.softmax(1).numpy(), t.softmax(1).numpy()
    inter, intra = correlation_loss(s, t, 1.0)
    for part, (a, b) in ((inter, (p, q)), (intra, (p.T, q.T))):
        rows = [np.corrcoef(*each)[0, 1] for each in zip(a, b, strict=True)]
        assert float(part) == pytest.approx(1 - np.mean(rows), abs=1e-6)


def test_released_settings() -> None:
    params = METHODS.get("dist").params()
    assert (params.inter_weight, params.intra_weight, params.temperature) == (2, 2, 4)
    imagenet = METHODS.get("dist").recipes["table3/resnet34-resnet18"]()
    assert imagenet["params"] == {"temperature": 1.0}
