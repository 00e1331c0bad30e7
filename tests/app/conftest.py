"""Results folders of all sizes for the app's tests, made through the store's public interface."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

from app.launch import MAIN, RESULTS_VARIABLE
from harness.config import EvalConfig, RunConfig
from harness.data import load_dataset
from harness.evaluation.analysis.statistics import accuracy
from harness.models import build_model
from harness.models.checkpoint import save_model
from harness.store.database import Database
from harness.store.exchange import import_
from harness.store.rundir import RunDirectory
from harness.store.verdicts import VERDICT_SCHEMA, write_verdicts

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
N = 40
ROOT = Path(__file__).parents[2]
BULK_STORE = ROOT / "benchmarks" / "bulk_store.py"
REFERENCE = ROOT / "results" / "reference"
Open = Callable[..., AppTest]


def verdicts(seed: int) -> pa.Table:
    """40 digits images: some wrong when clean, some broken by each stage, the rest robust."""
    generator = np.random.default_rng(seed)
    broken = generator.choice(["clean", *STAGES[:2], "robust"], N, p=[0.1, 0.3, 0.1, 0.5])
    labels = load_dataset("digits", splits=("test",)).test.labels[:N].numpy()
    wrong = (labels + 1) % 10
    return pa.table(
        {
            "index": np.arange(N),
            "label": labels,
            "clean_pred": np.where(broken == "clean", wrong, labels),
            "broken_by": pa.array([None if by == "robust" else by for by in broken]),
            "target": pa.array(wrong, mask=broken != "apgd-t"),
            "adv_pred": np.where(broken == "robust", labels, wrong),
            "distance": np.where(np.isin(broken, STAGES), 0.15, 0.0),
            "margin": np.where(broken == "robust", 1.0, -1.0),
        }
    )  # fmt: skip


def store_run(
    results: Path, method: str, title: str, *, seed: int = 0, status: str = "success", **fields: Any
) -> str:
    """A run of a small model on digits with every file that the engine writes.

    ``eps`` and ``n`` belong to its evaluation, other ``fields`` to its record.
    """
    changes = {name: fields.pop(name) for name in ("eps", "n") if name in fields}
    config = RunConfig(
        method=method,
        seed=seed,
        recipe="digits",
        params=fields.pop("params", {"weight": fields.pop("weight", 6.0)}),
        evaluation=fields.pop("evaluation", EvalConfig()),
    )
    run = RunDirectory.create(results, config.run_id)
    described = {
        "kind": "trained", "method": method, "method_title": title, "task": "adversarial",
        "dataset": "digits", "arch": "resnet8", "recipe": "digits", "recipe_changes": {},
        "scale": "small", "partial": False, "seed": seed, "selection": "last", "selected_epoch": 5,
        "config": config.model_dump(mode="json"),
        "config_passed": {"argv": ["run", "--method", method]},
        "metrics": {"sec_per_iter": {"value": 0.03, "n": 9}, "train_seconds": {"value": 61.0}},
        "provenance": {"git": {"commit": "a" * 40, "dirty": True}, "device": "cpu (test)"},
        "started_at": f"2026-01-02T03:04:{seed:02d}+00:00", "finished_at": None,
        "train_sha256": "5" * 64, "test_sha256": "2" * 64,
    }  # fmt: skip
    run.update(**described | {"status": status} | fields)
    for epoch in range(1, 6):
        run.append_epoch(
            {"epoch": epoch, "loss": 2 / epoch, "lr": 0.1, "clean_val": 0.5 + 0.09 * epoch,
             "pgd_val": 0.2 + 0.05 * epoch, "seconds": 12.0}
        )  # fmt: skip
    run.log("a logged warning")
    if status == "success":
        model = build_model("resnet8", 10, 1, 8)
        save_model(
            run.model_path, model, arch="resnet8", num_classes=10, in_channels=1, image_size=8,
            normalize=None, dataset="digits", method=method, epoch=5,
        )  # fmt: skip
        store_evaluation(run, seed, **changes)
    Database(results).record(run)
    return config.run_id


def store_evaluation(
    run: RunDirectory,
    seed: int,
    *,
    keep_images: bool = True,
    name: str = "e" * 12,
    minute: int = 6,
    **changes: Any,
) -> None:
    """A finished AutoAttack evaluation of the first 40 test images, in two chunks.

    ``changes`` replace fields of the protocol; beyond 40 the images repeat. ``minute`` is when it
    ended.
    """
    n = changes.get("n", N)
    table = pa.concat_tables([verdicts(seed)] * -(-n // N)).slice(0, n)
    table = table.set_column(0, "index", pa.array(np.arange(n)))
    broken = table["broken_by"].to_pylist()
    left, metrics = n - broken.count("clean"), {}
    metrics["clean"] = accuracy(left, n)
    for stage in STAGES:
        left -= broken.count(stage)
        metrics[stage] = accuracy(left, n)
    metrics["aa"] = metrics["robust"] = metrics["square"]
    evaluation = run.evaluation(name)
    protocol = {
        "norm": "Linf", "eps": 0.15, "attacks": list(STAGES), "n": N, "limit": None,
        "attack_version": "standard pyautoattack-0.2.0", "precision": "float32", "seed": 0,
        "chunk_size": 25, "index_sha256": "1" * 64, "data_sha256": "2" * 64,
        "model_sha256": "3" * 64, "partial": False, "accelerate": True, "standard": True,
    } | changes  # fmt: skip
    evaluation.update(protocol=protocol)
    write_verdicts(table.cast(VERDICT_SCHEMA), evaluation.verdicts_path)
    if keep_images:
        images = load_dataset("digits", splits=("test",)).test.images_float(slice(0, N)).numpy()
        adversarial = (np.clip(images + 0.1, 0, 1) * 255).round().astype(np.uint8)
        evaluation.chunks_path.mkdir(parents=True)
        for chunk, rows in enumerate((slice(0, 25), slice(25, N))):
            path = evaluation.chunk_path(chunk)
            np.save(path.with_suffix(".adversarial.npy"), adversarial[rows])
    evaluation.update(
        status="success", metrics=metrics, flags=[{"name": "some-flag", "detail": "a doubt"}],
        started_at="2026-01-02T03:05:00+00:00",
        finished_at=f"2026-01-02T03:{minute:02d}:{seed:02d}+00:00", wall_s=60.0,
    )  # fmt: skip


def make_small(results: Path) -> dict[str, str]:
    """Two finished runs, one running and one failed; their ids by role."""
    return {
        "a": store_run(results, "ikl", "IKL-AT", seed=1),
        "b": store_run(results, "trades", "TRADES", seed=2),
        "running": store_run(results, "mart", "MART", seed=3, status="started"),
        "failed": store_run(
            results, "pgd-at", "PGD-AT", seed=4, status="error",
            error="UserError: the loss is not finite <b>at</b> epoch 3",
        ),
    }  # fmt: skip


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A results folder that does not exist yet."""
    return tmp_path / "results"


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A results folder with four runs, and their ids by role; only for reading."""
    results = tmp_path_factory.mktemp("small")
    return results, make_small(results)


@pytest.fixture(scope="session")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with 300 runs and 300,000 verdicts; only for reading."""
    results = tmp_path_factory.mktemp("large")
    runpy.run_path(str(BULK_STORE))["make_store"](results, runs=300, images=1000)
    return results


@pytest.fixture(scope="session")
def measured_again(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was evaluated by its protocol, and later at eps 0.02; only for reading."""
    results = tmp_path_factory.mktemp("measured-again")
    protocol = EvalConfig(eps=0.15, attacks=STAGES)
    run_id = store_run(results, "ikl", "IKL-AT", evaluation=protocol)
    run = RunDirectory(results, run_id)
    store_evaluation(run, 1, name="f" * 12, minute=30, eps=0.02)
    Database(results).record(run)
    return results, run_id


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the reference runs that ship with the repository; only for reading."""
    results = tmp_path_factory.mktemp("reference")
    for folder in sorted(REFERENCE.glob("*/manifest.json")):
        import_(results, folder.parent)
    return results


@pytest.fixture(scope="session", name="chromium")
def _chromium() -> Iterator[Any]:
    from browsing import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(name="visit")
def _visit(chromium: Any, server: str) -> Iterator[Any]:
    """Opens the app of the module's ``server`` in a browser window of its own."""
    from browsing import Visitor

    open_visitors: list[Visitor] = []

    def begin(width: str = "wide", theme: str = "light") -> Visitor:
        open_visitors.append(Visitor(chromium, server, width, theme))
        return open_visitors[-1]

    yield begin
    for visitor in open_visitors:
        visitor.context.close()


@pytest.fixture(name="store_run", scope="session")
def _store_run() -> Callable[..., str]:
    return store_run


@pytest.fixture(name="store_evaluation")
def _store_evaluation() -> Callable[..., None]:
    return store_evaluation


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a page of the app over a results folder, with parameters in the URL.

    An exception on the page fails the test; a page's error messages are the test's to check.
    """

    def visit(page: str, results: Path, **query: str | list[str]) -> AppTest:
        monkeypatch.setenv(RESULTS_VARIABLE, str(results))
        at = AppTest.from_file(str(MAIN), default_timeout=60)
        if page != "start":
            at.switch_page(f"views/{page}.py")
        at.query_params.update(query)
        at.run()
        assert not at.exception, [box.value for box in at.exception]
        return at

    return visit
