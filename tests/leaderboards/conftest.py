"""Finished runs of made-up accuracies in a results folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from harness.config import RunConfig
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from harness.store.verdicts import write_verdicts

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")


def accuracy(correct: int, n: int) -> dict[str, Any]:
    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return {"value": correct / n, "n": n, "low": interval.low, "high": interval.high}


def verdicts(correct: tuple[int, ...], n: int, stages: tuple[str, ...]) -> pa.Table:
    """Verdicts of n images of which each stage leaves so many; the first images break first."""
    broken_by: list[str | None] = []
    for before, left, stage in zip((n, *correct), correct, stages, strict=False):
        broken_by += [stage] * (before - left)
    broken_by += [None] * (n - len(broken_by))
    label = np.zeros(n, dtype=int)
    right = np.array([by is None for by in broken_by])
    return pa.table(
        {
            "index": np.arange(n),
            "label": label,
            "clean_pred": np.where(np.array(broken_by) == "clean", 1, 0),
            "broken_by": pa.array(broken_by, pa.string()),
            "target": pa.nulls(n, pa.int32()),
            "adv_pred": np.where(right, 0, 1),
            "distance": np.where(right, 0.0, 0.1),
            "margin": np.where(right, 1.0, -1.0),
        }
    )


@pytest.fixture
def add_run(tmp_path: Path) -> Callable[..., str]:
    """Stores a finished run in the test's folder."""
    return adding_to(tmp_path)


def adding_to(results: Path) -> Callable[..., str]:
    """A function that stores a finished run, of the images left by clean and by each stage."""
    database = Database(results)

    def add(
        title: str,
        correct: tuple[int, ...],
        *,
        n: int = 360,
        seed: int = 0,
        dataset: str = "digits",
        arch: str = "resnet8",
        params: dict[str, Any] | None = None,
        attacks: tuple[str, ...] = STANDARD,
        protocol: dict[str, Any] | None = None,
        evaluation_id: str = "e1",
        record: bool = True,
        sec_per_iter: float = 0.0321,
        flags: list[dict[str, str]] | None = None,
        **fields: Any,
    ) -> str:
        config = RunConfig(method=title.lower(), seed=seed, params=params or {})
        run = RunDirectory.create(results, config.run_id)
        described = {
            "kind": "trained",
            "method": title.lower(),
            "method_title": title,
            "task": "adversarial",
            "dataset": dataset,
            "arch": arch,
            "recipe": dataset,
            "recipe_changes": {},
            "scale": "small",
            "partial": False,
            "seed": seed,
            "selection": "last",
            "config": config.model_dump(mode="json"),
            "metrics": {"sec_per_iter": {"value": sec_per_iter, "n": 50}},
        }
        run.update(**described | {"status": "success"} | fields)
        kind = "standard" if attacks == STANDARD else f"custom({','.join(attacks)})"
        names = ("clean", *attacks)
        metrics = {name: accuracy(left, n) for name, left in zip(names, correct, strict=True)}
        metrics["robust"] = metrics[names[-1]]
        if len(attacks) == 4:
            metrics["aa"] = metrics["square"]
        evaluation = run.evaluation(evaluation_id)
        write_verdicts(verdicts(correct, n, ("clean", *attacks)), evaluation.verdicts_path)
        evaluation.update(
            status="success",
            metrics=metrics,
            flags=flags or [],
            finished_at=f"2026-01-01T00:{len(evaluation_id):02d}:00+00:00",
            protocol={
                "norm": "Linf",
                "eps": 0.15,
                "attacks": attacks,
                "attack_version": f"{kind} pyautoattack-0.2.0",
                "n": n,
                "index_sha256": "1" * 64,
                "data_sha256": "2" * 64,
                "model_sha256": "3" * 64,
                "precision": "float32",
                "standard": len(attacks) == 4,
                "partial": False,
            }
            | (protocol or {}),
        )
        if record:
            database.record(run)
        return config.run_id

    return add
