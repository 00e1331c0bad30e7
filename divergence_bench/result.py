"""Results in the Python API: one evaluation, all those of a folder, and comparisons of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.evaluation.analysis import paired, stored
from harness.store.database import Database
from harness.store.rundir import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

    from harness.experiment.runner import Outcome

RESULTS = """
WITH wide AS (
    PIVOT (SELECT run_id, evaluation_id, name, value FROM metrics
           WHERE evaluation_id IS NOT NULL AND name IN ('clean', 'robust', 'aa'))
    ON name IN ('clean', 'robust', 'aa') USING first(value)
), interval AS (
    SELECT run_id, evaluation_id, low, high FROM metrics WHERE name = 'robust'
)
SELECT l.run_id, l.title AS name, l.method, l.dataset, l.arch, l.seed, l.norm, l.eps, l.attacks,
       l.n, w.clean, w.robust, i.low AS robust_low, i.high AS robust_high, w.aa, l.scale,
       l.partial, l.evaluation_id, l.finished_at
FROM like_runs l
JOIN wide w USING (run_id, evaluation_id) JOIN interval i USING (run_id, evaluation_id)
ORDER BY l.finished_at, l.run_id
"""


@dataclass(frozen=True)
class Accuracy:
    """An accuracy in [0, 1] with its 95% interval and the number of images.

    The interval is Wilson's, or that of a sequential evaluation, valid at any stopping time.
    """

    value: float
    low: float
    high: float
    n: int

    def __float__(self) -> float:
        """Return the value."""
        return self.value

    def __str__(self) -> str:
        """Return text such as ``0.5713 [0.562, 0.581] (n=10,000)``."""
        return f"{self.value:.4f} [{self.low:.3f}, {self.high:.3f}] (n={self.n:,})"


@dataclass(frozen=True)
class Result:
    """A stored evaluation of a stored run.

    Attributes:
        run_id: the run, as ``list runs`` shows it.
        evaluation_id: the evaluation.
        path: the folder of the run.
        metrics: accuracy on clean images (``clean``), after each stage, and after all (``robust``).
        protocol: the settings that must be quoted with the numbers.
        flags: reasons to doubt the numbers, one sentence each.
        stored_at: when an earlier call finished it (UTC); None if this call computed it.
    """

    run_id: str
    evaluation_id: str
    path: Path
    metrics: Mapping[str, Accuracy]
    protocol: Mapping[str, Any]
    flags: tuple[str, ...]
    stored_at: str | None = None

    @property
    def clean(self) -> Accuracy:
        """Accuracy on clean images."""
        return self.metrics["clean"]

    @property
    def robust(self) -> Accuracy:
        """Accuracy after all attacks."""
        return self.metrics["robust"]

    @property
    def verdicts(self) -> pd.DataFrame:
        """Per image: index, label, clean_pred, broken_by, target, adv_pred, distance, margin."""
        return verdicts(self.run_id, self.evaluation_id, results=self.path.parents[1])

    def __str__(self) -> str:
        """Return clean and robust accuracy in one line, and when they were stored."""
        stored = f", stored {self.stored_at}" if self.stored_at else ""
        return f"{self.run_id}: clean {self.clean}, robust {self.robust}{stored}"


def result_of(outcome: Outcome) -> Result:
    """Return an outcome's evaluation at the largest radius."""
    evaluation = outcome.evaluation
    directory = RunDirectory(outcome.directory.parents[1], outcome.run_id)
    record = directory.evaluation(evaluation.evaluation_id).record
    return Result(
        outcome.run_id,
        evaluation.evaluation_id,
        outcome.directory,
        {
            name: Accuracy(m["value"], m["low"], m["high"], int(m["n"]))
            for name, m in evaluation.metrics.items()
        },
        record["protocol"],
        tuple(f"{flag['name']}: {flag['detail']}" for flag in record.get("flags") or ()),
        evaluation.stored_at,
    )


def compare(
    a: Result | str, b: Result | str, *, results: str | Path | None = None
) -> paired.Comparison:
    """Compare two runs image by image, on clean images and after each stage.

    Args:
        a: a result, a run, or ``RUN@EVALUATION``.
        b: likewise.
        results: the results folder of runs given by name; default: that of the other run if it is
            a result, else ``results``.

    Returns:
        A comparison with ``metrics``: name to difference a - b, interval and McNemar p-value.

    Raises:
        UserError: a run is unknown or not evaluated, or they share no protocol.
    """
    own = [each.path.parents[1] if isinstance(each, Result) else None for each in (a, b)]
    named = Path("results") if results is None else Path(results)
    default = named if results is not None else next(filter(None, own), named)
    names = [f"{x.run_id}@{x.evaluation_id}" if isinstance(x, Result) else x for x in (a, b)]
    found = [
        stored.finished(folder or default, name, None, None)
        for folder, name in zip(own, names, strict=True)
    ]
    return paired.compare(*stored.choose(found))


def results(results: str | Path = "results") -> pd.DataFrame:
    """Return one row per finished evaluation of each run; accuracies are fractions.

    Raises:
        UserError: the folder has no database.
    """
    return Database(Path(results)).query(RESULTS)


def verdicts(
    run: str, evaluation: str | None = None, *, results: str | Path = "results"
) -> pd.DataFrame:
    """Return one row per image of a run's evaluation; default: the newest finished one.

    Raises:
        UserError: the run or evaluation does not exist, or its verdicts are damaged.
    """
    name = run if evaluation is None else f"{run}@{evaluation}"
    directory = stored.finished(Path(results), name, None, None)[0]
    frame: pd.DataFrame = directory.verdicts().to_pandas()
    return frame
