import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from harness.config import RunConfig
from harness.store.database import Database
from harness.store.rundir import EvaluationDirectory, RunDirectory
from harness.store.schema import TABLES
from harness.store.sharing import Merged
from harness.store.verdicts import VERDICT_SCHEMA, verdicts_digest, write_verdicts

MakeRun = Callable[..., RunDirectory]
Lab = Callable[..., Path]


def contents(database: Database, *tables: str) -> dict[str, pd.DataFrame]:
    """All rows of some tables, or of every table."""
    return {name: database.query(f"SELECT * FROM {name} ORDER BY ALL") for name in tables or TABLES}


def assert_same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    assert one.keys() == other.keys()
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], obj=name)


def summary(merged: Merged) -> tuple[list[str], list[str], list[str], list[str], list[str]]:
    lists = merged.added, merged.completed, merged.same
    return *lists, list(merged.conflicts), list(merged.left_out)


def verdict_table(n: int, *, wrong: int = 2, broken: int = 3) -> pa.Table:
    """``wrong`` images misclassified clean, then ``broken`` by a stage, the rest robust."""
    broken_by = ["clean"] * wrong + ["apgd-t"] * broken + [None] * (n - wrong - broken)
    columns = {
        "index": list(range(n)),
        "label": [i % 10 for i in range(n)],
        "clean_pred": [(i + (i < wrong)) % 10 for i in range(n)],
        "broken_by": broken_by,
        "target": [(i + 1) % 10 if by == "apgd-t" else None for i, by in enumerate(broken_by)],
        "adv_pred": [(i + (by is not None)) % 10 for i, by in enumerate(broken_by)],
        "distance": [0.1 if by == "apgd-t" else 0.0 for by in broken_by],
        "margin": [1.0 if by is None else -1.0 for by in broken_by],
    }
    return pa.table(columns, schema=VERDICT_SCHEMA)


def accuracy(correct: int, n: int) -> dict[str, Any]:
    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return {"value": correct / n, "n": n, "low": interval.low, "high": interval.high}


def add_evaluation(run: RunDirectory, name: str = "e1", n: int = 20) -> EvaluationDirectory:
    evaluation = run.evaluation(name)
    evaluation.update(
        protocol={
            "norm": "Linf",
            "eps": 8 / 255,
            "attacks": ["apgd-ce", "apgd-t"],
            "n": n,
            "limit": n,
            "chunk_size": 10,
            "seed": 0,
            "attack_version": "pyautoattack 0.2.0",
            "precision": "float32",
            "standard": False,
            "accelerate": True,
            "index_sha256": "1" * 64,
            "data_sha256": "2" * 64,
            "model_sha256": "3" * 64,
            "partial": True,
        },
        flags=["a warning"],
    )
    verdicts = verdict_table(n)
    write_verdicts(verdicts, evaluation.verdicts_path)
    evaluation.update(
        status="success",
        verdicts_digest=verdicts_digest(verdicts),
        metrics={
            "clean": accuracy(n - 2, n),
            "apgd-ce": accuracy(n - 2, n),
            "apgd-t": accuracy(n - 5, n),
            "robust": accuracy(n - 5, n),
        },
        started_at="2026-01-02T03:04:05+00:00",
        finished_at="2026-01-02T05:04:05+02:00",
    )
    return evaluation


@pytest.fixture(name="verdict_table")
def _verdict_table() -> Callable[..., pa.Table]:
    return verdict_table


@pytest.fixture(name="add_evaluation")
def _add_evaluation() -> Callable[..., EvaluationDirectory]:
    return add_evaluation


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes finished run directories under ``tmp_path``."""

    def make(run_id: str = "some-000000000000", epochs: int = 3, **fields: Any) -> RunDirectory:
        run = RunDirectory.create(tmp_path, run_id)
        config = RunConfig(method="some", seed=fields.get("seed", 0)).model_dump(mode="json")
        described = {
            "kind": "trained",
            "method": "some",
            "dataset": "digits",
            "arch": "resnet8",
            "config": config,
            "provenance": {"git": {"commit": "abc", "dirty": True}, "device": "cpu"},
            "started_at": "2026-01-02T03:04:05+00:00",
            "metrics": {"sec_per_iter": {"value": 0.5, "n": 9}, "train_seconds": 12},
        }
        run.update(**described | fields)
        for epoch in range(1, epochs + 1):
            loss = 1 / epoch if epoch > 1 else math.nan
            run.append_epoch({"epoch": epoch, "loss": loss, "lr": 0.1, "parts": {"ce": loss}})
        run.model_path.write_bytes(b"weights of " + run_id.encode())
        add_evaluation(run)
        run.update(status="success")
        return run

    return make


@pytest.fixture
def lab(tmp_path: Path, make_run: MakeRun) -> Lab:
    """Makes a results folder with database that holds finished runs of these names."""

    def make(name: str, *run_ids: str) -> Path:
        results = tmp_path / name
        for run_id in run_ids:
            run = make_run(run_id)
            evaluation = run.evaluation("e1")
            evaluation.update(verdicts_digest=verdicts_digest(evaluation.verdicts()))
            (results / "runs").mkdir(parents=True, exist_ok=True)
            shutil.move(run.path, results / "runs" / run_id)
            Database(results).record(RunDirectory(results, run_id))
        return results

    return make
