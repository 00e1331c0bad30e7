"""Command lines that are killed, and what must be the same afterwards."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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


class Nursery:
    """Copies of a process that has everything imported; see ``nursery.py``."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.outputs = folder
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )
        assert self._answer() == "ready"

    def at_once(self, *orders: dict[str, Any]) -> list[dict[str, Any]]:
        """Command lines that run at once, and of each its status, seconds and output.

        An order has ``arguments`` and may have ``delay`` seconds until ``signal``, and ``prepare``,
        Python that the process executes first.
        """
        for order in orders:
            self._number += 1
            order["output"] = str(self.outputs / f"{self._number}.txt")
        assert self._process.stdin is not None
        print(json.dumps(orders), file=self._process.stdin, flush=True)
        answers: list[dict[str, Any]] = self._answer()
        return [
            answer | {"output": Path(order["output"]).read_text()}
            for answer, order in zip(answers, orders, strict=True)
        ]

    def harness(self, arguments: list[str], **order: Any) -> dict[str, Any]:
        """One command line."""
        return self.at_once({"arguments": arguments, **order})[0]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that everything is forked from is gone"
        return json.loads(line)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


# What is there when a phase begins.
SIGNS = {
    "training": "runs/*/run.json",
    "evaluation": "runs/*/model.pt",
    "storing": "runs/*/evaluations/*/chunks/00003.parquet",
}


@dataclass
class Undisturbed:
    """A run that nobody killed: where it is, and how many seconds each phase took."""

    results: Path
    arguments: list[str]
    took: dict[str, float]
    seconds: float

    @property
    def run(self) -> RunDirectory:
        (run,) = list_runs(self.results)
        return run


def undisturbed(nursery: Nursery, results: Path, arguments: list[str]) -> Undisturbed:
    """Run to the end twice; the seconds are of the second time, when all that is lazy is warm."""
    for attempt in ("first", "whole"):
        folder, began = results / attempt, time.time()
        ended = nursery.harness([*arguments, "--results", str(folder)])
        assert ended["code"] == 0, ended["output"]
    end = began + ended["seconds"]
    moments = [next(folder.glob(SIGNS[phase])).stat().st_mtime for phase in SIGNS]
    # The record is written anew throughout; the lock is as old as the work.
    moments[0] = next(folder.glob("runs/*/run.lock")).stat().st_mtime
    took = [after - before for before, after in pairwise([*moments, end])]
    return Undisturbed(folder, arguments, dict(zip(SIGNS, took, strict=True)), ended["seconds"])


def phase_of(results: Path) -> str:
    """What a killed process was in the middle of, by what it left."""
    for phase in reversed(SIGNS):
        if list(results.glob(SIGNS[phase])):
            return phase
    return "start"


@pytest.fixture(scope="session")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The run that every killed one must equal."""
    return undisturbed(nursery, tmp_path_factory.mktemp("whole"), RUN)


@dataclass
class Tally:
    """Kills that struck, by what they struck."""

    struck: Counter[str] = field(default_factory=Counter)
    missed: int = 0

    @property
    def kills(self) -> int:
        return self.struck.total()


def killed_until(
    nursery: Nursery, whole: Undisturbed, folder: Path, kills: int, phases: list[str], seed: int
) -> Tally:
    """Kill runs in turn within each phase until ``kills`` struck; each must end as ``whole`` did.

    Each folder's run is killed once, and half of the time once more after it was taken up.
    """
    generator, tally, number = random.Random(seed), Tally(), 0
    while tally.kills < kills:
        results = folder / str(number)
        phase = phases[number % len(phases)]
        number += 1
        moment = {"delay": generator.uniform(0, whole.took[phase])}
        strikes = [moment | {"until": str(results / SIGNS[phase])}]
        if generator.random() < 0.5:
            strikes.append({"delay": generator.uniform(0, whole.seconds)})
        for strike in strikes:
            ended = nursery.harness([*whole.arguments, "--results", str(results)], **strike)
            if ended["code"] == -9:
                tally.struck[phase_of(results)] += 1
            else:
                assert ended["code"] == 0, ended["output"]
                tally.missed += 1
        ended = nursery.harness([*whole.arguments, "--results", str(results)])
        assert ended["code"] == 0, ended["output"]
        assert_same_result(results, whole.results)
        assert number < 4 * kills, f"the runs end before they can be killed: {tally}"
    return tally


def contents(results: Path) -> dict[str, pd.DataFrame]:
    """The database's rows without what a clock or the folder's name changes."""
    database = Database(results)
    timed = {"runs": TIMES, "evaluations": TIMES, "epochs": {"sec_per_iter", "seconds"}}
    timed["epochs"] |= {"peak_memory_mb"}
    tables = {
        name: database.query(f"SELECT * FROM {name}").drop(
            columns=list(timed.get(name, ())), errors="ignore"
        )
        for name in ("runs", "evaluations", "epochs", "verdicts")
    }
    tables["evaluations"] = tables["evaluations"].drop(columns=["verdicts_sha256"])
    measured = ("sec_per_iter", "train_seconds", "peak_memory_mb")
    tables["metrics"] = database.query(
        f"SELECT name, CASE WHEN name NOT IN {measured} THEN value END AS value FROM metrics"
    )
    return {
        name: frame.sort_values(list(frame.columns)).reset_index(drop=True)
        for name, frame in tables.items()
    }


def assert_same_result(results: Path, whole: Path) -> None:
    """Weights, verdicts and rows are those of the undisturbed run, and nothing is left over."""
    (run,), (other,) = list_runs(results), list_runs(whole)
    weights = [
        torch.load(each.model_path, weights_only=True)["state_dict"] for each in (run, other)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    (evaluation,), (expected,) = run.evaluations(), other.evaluations()
    assert evaluation.verdicts().equals(expected.verdicts())
    assert evaluation.record["metrics"] == expected.record["metrics"]
    assert not [path for path in run.path.rglob("*.tmp") if path.is_file()]
    stored, wanted = contents(results), contents(whole)
    for name, frame in wanted.items():
        pd.testing.assert_frame_equal(stored[name], frame, check_exact=True, obj=name)
