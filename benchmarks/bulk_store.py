"""Build a results database of any size by bulk inserts, for benchmarks and tests of reading."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from harness.config import STANDARD_ATTACKS, RunConfig
from harness.store.database import Database
from harness.store.schema import TABLES, arrow_schema, migrate


def make_store(results: Path, *, runs: int, images: int) -> None:
    """Insert ``runs`` runs with ``images`` verdicts each, without run directories."""
    results.mkdir(parents=True, exist_ok=True)
    names = [f"m{run % 20}-{run:012x}" for run in range(runs)]
    config = json.dumps(RunConfig(method="ikl").model_dump(mode="json"))
    generator = np.random.default_rng(0)
    rows = [
        {
            "run_id": name, "kind": "trained", "status": "success", "method": f"m{run % 20}",
            "method_title": f"Method {run % 20}", "task": "adversarial",
            "dataset": ("cifar100", "cifar10", "digits")[run % 3], "arch": f"wrn-{run % 5}-10",
            "recipe": "r", "recipe_changes": "{}", "scale": "paper", "seed": run,
            "seed_group": f"g{run // 3}", "selection": "last", "partial": False,
            "epochs_planned": 50, "config": config, "config_passed": "{}", "source": "{}",
            "provenance": "{}", "git_dirty": False,
            "started_at": datetime(2026, 1, 1) + timedelta(minutes=run),
        }
        for run, name in enumerate(names)
    ]  # fmt: skip
    evaluations = [
        {
            "run_id": name, "evaluation_id": "e", "status": "success", "norm": "Linf",
            "eps": 8 / 255, "attacks": ",".join(STANDARD_ATTACKS), "n": images,
            "precision": "float32", "attack_version": "standard pyautoattack-0.2.0",
            "index_sha256": "1" * 64, "data_sha256": str(run % 3) * 64, "partial": False,
            "protocol": json.dumps(
                {
                    "norm": "Linf", "eps": 8 / 255, "attacks": STANDARD_ATTACKS, "n": images,
                    "attack_version": "standard pyautoattack-0.2.0", "precision": "float32",
                    "data_sha256": str(run % 3) * 64, "model_sha256": f"{run:064x}",
                    "standard": True,
                }
            ), "flags": "[]",
            "finished_at": datetime(2026, 1, 2) + timedelta(minutes=run),
        }
        for run, name in enumerate(names)
    ]  # fmt: skip
    metrics = [
        {"run_id": name, "evaluation_id": "e", "name": metric, "value": value, "n": images,
         "low": value - 0.01, "high": value + 0.01}
        for name in names
        for metric, value in zip(
            ("clean", *STANDARD_ATTACKS, "aa", "robust"),
            np.array([0.6, 0.4, 0.33, 0.33, 0.32, 0.32, 0.32]) - generator.random() / 10,
            strict=True,
        )
    ]  # fmt: skip
    epochs = [
        {"run_id": name, "epoch": epoch, "loss": 1 / epoch, "clean_val": 0.5, "pgd_val": 0.3}
        for name in names
        for epoch in range(1, 51)
    ]
    insert(results, runs=rows, evaluations=evaluations, metrics=metrics, epochs=epochs)
    with duckdb.connect(Database(results).path) as connection:
        connection.execute(
            """
            INSERT INTO verdicts
            SELECT e.run_id, e.evaluation_id, i AS index, i % 10 AS label, i % 10 AS clean_pred,
                   CASE hash(e.run_id, i) % 3 WHEN 1 THEN 'apgd-ce' WHEN 2 THEN 'apgd-t' END
                       AS broken_by,
                   NULL AS target, i % 7 AS adv_pred, 0.03 AS distance, 0.5 AS margin
            FROM evaluations e, range(?) r(i) ORDER BY e.run_id
            """,
            [images],
        )


def insert(results: Path, **records: list[dict[str, Any]]) -> None:
    """Insert rows in the tables of a results database, which is created if missing."""
    with duckdb.connect(Database(results).path) as connection:
        migrate(connection)
        for name, rows in records.items():
            schema = arrow_schema(TABLES[name])
            connection.register("incoming", pa.Table.from_pylist(rows, schema=schema))
            connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM incoming")
