"""The regression gate of continuous integration: a small benchmark and its committed baseline.

Each run of the baseline is trained twice. A short training run in double precision gives the golden
losses, step by step. Its rounding errors are so small that a small tolerance distinguishes a
changed computation from a different processor. A second, ordinary training run is evaluated, and
its verdicts are compared with the baseline's image by image.

The baseline file defines the methods, the settings and the tolerances.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from harness import provenance
from harness.config import RunConfig, Strict
from harness.config.validate import validated
from harness.errors import UserError
from harness.evaluation.analysis.comparable import differences
from harness.evaluation.analysis.statistics import PairedComparison, compare_paired
from harness.evaluation.attack.executors import num_threads
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.progress import Reporter
from harness.store.files import read_json, without_nan, write_bytes_atomic
from harness.store.rundir import RunDirectory, utc_now
from harness.store.text import counted

FORMAT = "divergence-bench baseline 1"
# A verdict is the number of the attack that succeeded, or one of these signs: robust, or wrong
# before any attack.
ROBUST, WRONG = ".", "x"
# With another number of threads, a float32 training run ends in a different network, which would
# look like a regression.
THREADS = 1

DEFAULT_GOLDEN: dict[str, JsonValue] = {
    "training.precision": "float64",
    "training.epochs": 3,
    "data.train_limit": 256,
    "training.optimizer.lr": 0.01,
    "training.weight_perturbation.start_epoch": 2,
    "training.monitor.every": 0,
    "evaluation.attacks": [],
    "evaluation.limit": 100,
    "evaluation.workers": 1,
}
DEFAULT_BENCHMARK: dict[str, JsonValue] = {
    "training.epochs": 6,
    "training.monitor.every": 0,
    "evaluation.attacks": ["apgd-ce"],
}


class Result(Strict):
    """The stored result of one run of a baseline.

    Attributes:
        losses: the golden losses, step by step.
        margin: the true logit minus the largest other logit of the resulting model, averaged over
            images.
        verdicts: one sign per image, in test-set order.
        index_sha256: hash of the images' rows.
        attack_version: package and version of the attacks.
        protocol: the settings of the evaluation and the hash of its test set; empty in baselines
            of early releases.
        run_id: the run that was evaluated.
    """

    # A training run that diverges is a regression to report.
    losses: tuple[Annotated[float, Field(allow_inf_nan=True)], ...]
    margin: float = Field(allow_inf_nan=True)
    verdicts: str
    index_sha256: str
    attack_version: str
    protocol: dict[str, JsonValue] = Field(default_factory=dict)
    run_id: str


class CheckedRun(Strict):
    """One run of the benchmark.

    ``set`` overrides its recipe in both training runs, ``golden`` and ``benchmark`` in one of them.
    """

    name: str
    method: str
    recipe: str | None = None
    set: dict[str, JsonValue] = Field(default_factory=dict)
    golden: dict[str, JsonValue] = Field(default_factory=dict)
    benchmark: dict[str, JsonValue] = Field(default_factory=dict)
    result: Result | None = None


class Baseline(Strict):
    """A baseline file.

    Attributes:
        format: names the kind of file.
        golden: settings of every short training run in double precision.
        benchmark: settings of every training run that is evaluated.
        loss_tolerance: largest relative difference of a golden loss that counts as rounding.
        margin: largest tolerated drop of an accuracy, as a fraction.
        alpha: a larger drop counts if its exact McNemar p-value is below this.
        runs: the runs with their results.
        environment: where the results were measured.
        history: the reason for each update, newest last.
    """

    format: str = FORMAT
    golden: dict[str, JsonValue] = DEFAULT_GOLDEN
    benchmark: dict[str, JsonValue] = DEFAULT_BENCHMARK
    loss_tolerance: float = Field(1e-4, gt=0)
    margin: float = Field(0.03, ge=0, lt=1)
    alpha: float = Field(0.01, gt=0, lt=1)
    runs: tuple[CheckedRun, ...] = Field(min_length=1)
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    history: tuple[dict[str, JsonValue], ...] = ()


@dataclass(frozen=True)
class Golden:
    """The golden losses against the baseline's.

    Attributes:
        difference: the largest relative difference; infinite if the number of losses differs.
        step: the first loss beyond the tolerance, from 1; the number after the last loss stands
            for the margin. None if all are within.
        was: the baseline's value there.
        now: the value found there.
    """

    difference: float
    step: int | None
    was: float | None
    now: float | None


@dataclass(frozen=True)
class Checked:
    """The comparison of one run with the baseline.

    Attributes:
        name: the run.
        golden: its golden losses.
        accuracies: ``clean`` and ``robust``, now minus then; empty if verdicts cannot be paired.
        worse: what got worse and by how much, one sentence each; empty if nothing did.
        better: the accuracies that rose by more than the margin with the same significance.
    """

    name: str
    golden: Golden
    accuracies: dict[str, PairedComparison]
    worse: tuple[str, ...]
    better: tuple[str, ...]


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        UserError: the file does not exist or is not a baseline.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path} is not a baseline of this release: create one with --update")
    baseline: Baseline = validated(Baseline, values)
    return baseline


def new_baseline(methods: Sequence[str]) -> Baseline:
    """A baseline without results: each method with its digits recipe and the default budget."""
    baseline: Baseline = validated(
        Baseline, {"runs": [{"name": name, "method": name} for name in methods]}
    )
    return baseline


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline atomically."""
    values = baseline.model_dump(mode="json")
    write_bytes_atomic((json.dumps(values, indent=1) + "\n").encode(), path)


def updated(baseline: Baseline, results: Sequence[Result | str], reason: str) -> Baseline:
    """The baseline with new results and the reason for them.

    Raises:
        UserError: a run failed.
    """
    for checked, result in zip(baseline.runs, results, strict=True):
        if isinstance(result, str):
            raise UserError(f"the baseline needs {checked.name}, which failed: {result}")
    entry: dict[str, JsonValue] = {"at": utc_now(), "reason": reason}
    return baseline.model_copy(
        update={
            "runs": tuple(
                checked.model_copy(update={"result": result})
                for checked, result in zip(baseline.runs, results, strict=True)
            ),
            "environment": environment(),
            "history": (*baseline.history, entry),
        }
    )


def environment() -> dict[str, JsonValue]:
    """The versions and hardware on which the last digits of a result depend."""
    facts = provenance.collect("cpu")
    found = {name: facts["packages"].get(name) for name in ("torch", "numpy", "pyautoattack")}
    found |= {name: facts[name] for name in ("python", "platform", "cpu")}
    return found | {"num_threads": THREADS}


def configs(baseline: Baseline, checked: CheckedRun, results: Path) -> tuple[RunConfig, RunConfig]:
    """The configurations of the golden training run and of the evaluated one.

    Raises:
        UserError: a name or a setting is unknown.
    """
    layers = (
        {**baseline.golden, **checked.set, **checked.golden},
        {**baseline.benchmark, **checked.set, **checked.benchmark},
    )
    golden, benchmark = (
        resolve(
            checked.method,
            recipe=checked.recipe,
            options={"results": results, "device": "cpu"},
            assignments=[f"{path}={json.dumps(value)}" for path, value in settings.items()],
        )
        for settings in layers
    )
    return golden, benchmark


def measure_golden(config: RunConfig, reporter: Reporter) -> tuple[tuple[float, ...], float]:
    """The losses of a short training run, step by step, and the mean margin of its model."""
    verdicts = run(config, reporter).evaluation.verdicts
    records = RunDirectory(config.results, config.run_id).epochs()
    losses = tuple(loss for record in records for loss in record["opening_losses"])
    return losses, float(verdicts["margin"].mean())


def measure(baseline: Baseline, checked: CheckedRun, results: Path, reporter: Reporter) -> Result:
    """Train and evaluate one run of the benchmark in an empty results folder."""
    golden, benchmark = configs(baseline, checked, results)
    losses, margin = measure_golden(golden, reporter)
    outcome = run(benchmark, reporter)
    directory = RunDirectory(results, outcome.run_id)
    protocol = directory.evaluation(outcome.evaluation.evaluation_id).record["protocol"]
    names = (*benchmark.evaluation.identity_payload(), "data_sha256")
    verdicts = outcome.evaluation.verdicts.sort_values("index")
    signs = {"clean": WRONG, None: ROBUST}
    signs |= {name: str(number) for number, name in enumerate(protocol["attacks"], 1)}
    return Result(
        losses=losses,
        margin=margin,
        verdicts="".join(
            signs[by if isinstance(by, str) else None] for by in verdicts["broken_by"]
        ),
        index_sha256=protocol["index_sha256"],
        attack_version=protocol["attack_version"],
        protocol={name: protocol[name] for name in names},
        run_id=outcome.run_id,
    )


def compare(baseline: Baseline, checked: CheckedRun, found: Result | str) -> Checked:
    """Compare a run's result, or the error that it failed with, with the baseline's result.

    Raises:
        UserError: the baseline has no result for the run.
    """
    stored = checked.result
    if stored is None:
        raise UserError(
            f"the baseline has no result for {checked.name}: measure it with --update --reason"
        )
    if isinstance(found, str):
        nothing = Golden(math.inf, None, None, None)
        return Checked(checked.name, nothing, {}, (f"it failed: {found}",), ())
    golden = compare_golden(stored, found, baseline.loss_tolerance)
    worse: list[str] = []
    better: list[str] = []
    if golden.step is not None:
        worse.append(_golden_text(golden, len(stored.losses)))
    accuracies: dict[str, PairedComparison] = {}
    if reason := verdict_mismatch(stored, found):
        worse.append(f"{reason}: update the baseline with --update --reason")
    else:
        accuracies = {
            "clean": compare_paired(_signs(found) != WRONG, _signs(stored) != WRONG),
            "robust": compare_paired(_signs(found) == ROBUST, _signs(stored) == ROBUST),
        }
    for name, paired in accuracies.items():
        if paired.p_value < baseline.alpha and abs(paired.difference) > baseline.margin:
            (worse if paired.difference < 0 else better).append(_paired_text(name, paired))
    return Checked(checked.name, golden, accuracies, tuple(worse), tuple(better))


def compare_golden(stored: Result, found: Result, tolerance: float) -> Golden:
    """Compare losses and margin, relative to the larger of the baseline's value and 0.01."""
    if len(stored.losses) != len(found.losses):
        return Golden(math.inf, 1, None, None)
    pairs = list(zip((*stored.losses, stored.margin), (*found.losses, found.margin), strict=True))
    apart = [abs(now - was) / max(abs(was), 0.01) for was, now in pairs]
    # "each > tolerance" would let NaN pass.
    first = next((step for step, each in enumerate(apart, 1) if not each <= tolerance), None)
    was, now = pairs[first - 1] if first else (None, None)
    return Golden(max(apart), first, was, now)


def verdict_mismatch(stored: Result, found: Result) -> str | None:
    """Why verdicts cannot be compared image by image; None if they can."""
    was, now = ({**r.protocol, "attack_version": r.attack_version} for r in (stored, found))
    differing = [
        f"{name} differs (baseline {was.get(name, 'unknown')}, now {now.get(name, 'unknown')})"
        for name in differences(was, now)
        if name != "data_sha256"
    ]
    if differing:
        return f"different protocol: {'; '.join(differing)}"
    rows = stored.index_sha256 == found.index_sha256 and len(stored.verdicts) == len(found.verdicts)
    if rows and was.get("data_sha256") == now.get("data_sha256"):
        return None
    return "it was evaluated on different images than the baseline"


def _signs(result: Result) -> NDArray[np.str_]:
    """The verdicts, one sign per image [N]."""
    return np.array(list(result.verdicts), dtype=np.str_)


def _golden_text(golden: Golden, steps: int) -> str:
    if golden.was is None or golden.now is None or golden.step is None:
        return "the short training run takes a different number of steps than the baseline's"
    at_step = f"loss of step {golden.step} of {steps}"
    where = at_step if golden.step <= steps else "mean margin of the resulting model"
    return (
        f"training computes something different: the {where} is {golden.now:.6g}, in the baseline "
        f"{golden.was:.6g}"
    )


def _paired_text(name: str, paired: PairedComparison) -> str:
    moved = "fell" if paired.difference < 0 else "rose"
    return (
        f"{name} accuracy {moved} by {100 * abs(paired.difference):.2f} points "
        f"[{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]: "
        f"{counted(paired.only_b, 'image')} lost, {paired.only_a} gained, "
        f"McNemar p = {paired.p_value:.2g}"
    )


def check(baseline: Baseline, results: Path, reporter: Reporter) -> list[Result | str]:
    """Measure every run of a baseline, in order; a run that fails gives its error.

    Raises:
        UserError: the baseline has an unknown name or setting.
    """
    for checked in baseline.runs:
        configs(baseline, checked, results)
    found: list[Result | str] = []
    for number, checked in enumerate(baseline.runs, 1):
        reporter.line(f"[{number}/{len(baseline.runs)}] {checked.name}")
        try:
            with num_threads(THREADS):
                found.append(measure(baseline, checked, results, reporter))
        except Exception as error:
            # A method that no longer runs is a regression to report along with the others.
            found.append(f"{type(error).__name__}: {error}")
    return found


def to_json(baseline: Baseline, found: Sequence[Checked]) -> dict[str, Any]:
    """The outcome as values that JSON can represent."""
    return {
        "regression": any(each.worse for each in found),
        "environment": {"baseline": baseline.environment, "here": environment()},
        "runs": [
            {
                "name": each.name,
                "worse": list(each.worse),
                "better": list(each.better),
                "golden": without_nan(vars(each.golden)),
                "accuracies": {name: vars(paired) for name, paired in each.accuracies.items()},
            }
            for each in found
        ],
    }
