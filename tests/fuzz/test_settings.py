"""Sweep files: rows of valid configurations, or one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from fuzzing import JUNK, changed, damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st

from harness.experiment.sweep import MOST_SEEDS, SweepSpec, read_spec, rows

pytestmark = pytest.mark.fuzz

FILES: list[dict[str, Any]] = [
    {"methods": ["kl", "ikl"], "seeds": 2, "set": {"training.epochs": 2}},
    {
        "runs": [{"method": "kl", "name": "a", "set": {"seed": 3}}, {"recipe": "table1/kl"}],
        "dataset": "digits",
        "scale": "small",
        "seeds": [0, 3],
    },
    {
        "methods": ["pgd-at"],
        "set": {
            "training": {"optimizer": {"lr": 0.01, "milestones": [1]}, "attack": {"eps": "8/255"}},
            "evaluation": {"eps": "0,2/255", "norm": "Linf", "budget": {"n_iter": 5}},
            "data.train_limit": 50,
            "model.normalize": True,
        },
    },
]  # fmt: skip
TEXTS = [yaml.safe_dump(content).encode() for content in FILES]
PATHS = st.sampled_from(
    ("seed", "method", "params", "params.weight", "training", "training.attack", "teacher",
     "training.optimizer.lr", "training.optimizer.milestones", "evaluation", "evaluation.eps",
     "evaluation.attacks", "evaluation.limit", "data.name", "data.root", "model.arch", "recipe",
     "results", "device", "a.b", "", ".", "a=b", "training..epochs")
)  # fmt: skip
SETTINGS = st.dictionaries(PATHS, st.one_of(JUNK, st.recursive(JUNK, st.lists, max_leaves=4)))


def check(tmp_path_factory: pytest.TempPathFactory, tally: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "sweep.yaml"
    path.write_bytes(content)
    kind, found = outcome(lambda: rows(read_spec(path, SweepSpec)))
    tally["sweep files"][kind] += 1
    if kind == "read":
        assert 0 < len(found) <= MOST_SEEDS * 1000
        for row in found[:3]:
            # What is accepted is a run like any other: it has an id, and its dump is the same run.
            again = type(row.config).model_validate(row.config.model_dump(mode="json"))
            assert again.run_id == row.config.run_id


@given(st.sampled_from(TEXTS).flatmap(damaged))
@tries(800)
def test_damaged_text(tmp_path_factory, tally, content) -> None:
    check(tmp_path_factory, tally, content)


@given(st.sampled_from(FILES).flatmap(changed))
@tries(800)
def test_other_values(tmp_path_factory, tally, content) -> None:
    check(tmp_path_factory, tally, yaml.safe_dump(content, allow_unicode=True).encode())


@given(st.sampled_from(("kl", "kd", "pgd-at", "crd", "las-at")), SETTINGS)
@tries(1500)
def test_any_settings(tmp_path_factory, tally, method, settings) -> None:
    content = {"methods": [method], "set": settings}
    check(tmp_path_factory, tally, yaml.safe_dump(content, allow_unicode=True).encode())
