"""Command lines that are killed, and what must be the same afterwards."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness.store.database import Database
from harness.store.rundir import RunDirectory, list_runs

ROOT = Path(__file__).parents[2]
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


class ForkServer:
    """Runs command lines in copies of a process that has everything imported."""

    def __init__(self, folder: Path) -> None:
        self.outputs = folder
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=folder,
        )
        assert self._read() == "ready"

    def run_all(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Run command lines at the same time; the status, seconds and output of each.

        A command has ``arguments`` and may have ``delay`` seconds until ``signal``, and
        ``prepare``, Python that the process executes first.
        """
        for command in commands:
            self._number += 1
            command["output"] = str(self.outputs / f"{self._number}.txt")
        assert self._process.stdin is not None
        print(json.dumps(commands), file=self._process.stdin, flush=True)
        results: list[dict[str, Any]] = self._read()
        return [
            result | {"output": Path(command["output"]).read_text()}
            for result, command in zip(results, commands, strict=True)
        ]

    def run(self, arguments: list[str], **options: Any) -> dict[str, Any]:
        """Run one command line."""
        return self.run_all({"arguments": arguments, **options})[0]

    def succeed(self, arguments: list[str], **options: Any) -> dict[str, Any]:
        """Run a command line that must exit with 0."""
        ended = self.run(arguments, **options)
        assert ended["code"] == 0, ended["output"]
        return ended

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that everything is forked from has ended"
        return json.loads(line)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    started = ForkServer(tmp_path_factory.mktemp("server"))
    yield started
    started.close()


# The file that shows that a phase has begun.
SIGNS = {
    "training": "runs/*/run.json",
    "evaluation": "runs/*/model.pt",
    "storing": "runs/*/evaluations/*/chunks/00003.parquet",
}


@dataclass
class Undisturbed:
    """A run that was not killed: its folder, and how many seconds each phase took."""

    results: Path
    seconds: dict[str, float]

    @property
    def run(self) -> RunDirectory:
        (run,) = list_runs(self.results)
        return run


@pytest.fixture(scope="session")
def undisturbed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The run that every killed one must equal."""
    results, began = tmp_path_factory.mktemp("undisturbed"), time.time()
    ended = server.succeed([*RUN, "--results", str(results)])
    moments = [next(results.glob(SIGNS[phase])).stat().st_mtime for phase in SIGNS]
    # The record is written again and again; the lock is as old as the work.
    moments[0] = next(results.glob("runs/*/run.lock")).stat().st_mtime
    seconds = [after - before for before, after in pairwise([*moments, began + ended["seconds"]])]
    return Undisturbed(results, dict(zip(SIGNS, seconds, strict=True)))


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
