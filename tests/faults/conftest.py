"""Command lines that are killed, and what must be the same afterwards."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from forking import ForkServer

from harness.store.database import Database
from harness.store.rundir import RunDirectory, list_runs
from tests.faults.staging import durations, staging

RUN = [
    "run", "--method", "ikl", "--device", "cpu", "--epochs", "3", "--train-limit", "96",
    "--batch-size", "48", "--eval-limit", "16", "--eps", "0.1", "--set", "evaluation.chunk_size=4",
    "--set", "evaluation.budget.n_iter=5", "--set", "evaluation.budget.n_queries=20",
    "--set", "evaluation.budget.n_target_classes=3",
    "--set", "training.attack.steps=3", "--set", "training.weight_perturbation.start_epoch=2",
    "--set", "training.monitor.every=0", "--workers", "1",
]  # fmt: skip
TIMES = {"started_at", "finished_at", "wall_s", "provenance", "config", "config_passed", "record"}
TIMES |= {"git_commit", "git_dirty"}


@dataclass
class Undisturbed:
    """A run that was not killed: its folder, and how many seconds each stage took."""

    results: Path
    seconds: dict[str, float]

    @property
    def run(self) -> RunDirectory:
        (run,) = list_runs(self.results)
        return run


@pytest.fixture(scope="session")
def undisturbed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The run that every killed one must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    results, log = folder / "results", folder / "stages"
    server.succeed([*RUN, "--results", str(results)], prepare=staging(log))
    return Undisturbed(results, durations(log))


def contents(results: Path) -> dict[str, pd.DataFrame]:
    """The database's rows without what a clock or the folder's name changes."""
    database = Database(results)
    timed = {"runs": TIMES, "evaluations": TIMES | {"verdicts_sha256"}}
    timed["epochs"] = {"sec_per_iter", "seconds", "peak_memory_mb"}
    tables = {
        name: database.query(f"SELECT * FROM {name}").drop(
            columns=list(timed.get(name, ())), errors="ignore"
        )
        for name in ("runs", "evaluations", "epochs", "verdicts")
    }
    measured = ("sec_per_iter", "train_seconds", "peak_memory_mb")
    tables["metrics"] = database.query(
        f"SELECT name, CASE WHEN name NOT IN {measured} THEN value END AS value FROM metrics"
    )
    return {
        name: frame.sort_values(list(frame.columns)).reset_index(drop=True)
        for name, frame in tables.items()
    }


def temporary_files(results: Path) -> list[Path]:
    return [path for path in results.rglob("*.tmp") if path.is_file()]


def assert_same_result(results: Path, undisturbed: Undisturbed) -> None:
    """Weights, verdicts and rows are those of the undisturbed run, and nothing is left over."""
    (run,), other = list_runs(results), undisturbed.run
    weights = [
        torch.load(each.model_path, weights_only=True)["state_dict"] for each in (run, other)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    (evaluation,), (expected,) = run.evaluations(), other.evaluations()
    assert evaluation.verdicts().equals(expected.verdicts())
    assert evaluation.record["metrics"] == expected.record["metrics"]
    assert not temporary_files(run.path)
    stored = contents(results)
    for name, frame in contents(undisturbed.results).items():
        pd.testing.assert_frame_equal(stored[name], frame, check_exact=True, obj=name)
