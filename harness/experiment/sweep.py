"""Sweeps: many runs, of which the missing ones are executed one after the other.

``rows`` returns the runs of a sweep, ``plan`` adds their state, and ``run_missing`` executes those
that are not done. A sweep stores nothing itself: its state is in the run directories, so sweeps and
other commands share finished work.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, JsonValue, field_validator

from harness.config import EvalProtocol, RunConfig, Strict, fingerprint
from harness.config.files import read_settings
from harness.config.validate import validated
from harness.data import dataset_info
from harness.errors import UserError
from harness.evaluation.attack.protocol import attack_version
from harness.evaluation.driver import is_enough
from harness.experiment import runner
from harness.experiment.record import header, indexed
from harness.experiment.resolve import DEFAULT_DATASET, changes, method_of, resolve
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.rundir import EvaluationDirectory, RunDirectory, utc_now

State = Literal["done", "partial", "missing"]
# A larger number of seeds is assumed to be a mistake.
MOST_SEEDS = 1000


class RunSpec(Strict):
    """One run in a sweep file: a method, or a recipe of only one method, and its settings."""

    method: str | None = None
    recipe: str | None = None
    dataset: str | None = None
    name: str | None = None
    set: dict[str, JsonValue] = Field(default_factory=dict)


class SweepSpec(Strict):
    """The runs of a sweep, given by recipes, by methods and by a list.

    A recipe may be a pattern such as ``table1/*``, which selects every matching recipe of every
    method. ``set`` applies to all runs; a run in the list may override it. ``scale: small`` scales
    each recipe to the size of the method's recipe for digits. ``seeds`` is a list, or a count of
    seeds starting at 0.
    """

    methods: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    runs: tuple[RunSpec, ...] = ()
    dataset: str | None = None
    scale: Literal["paper", "small"] = "paper"
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    set: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if not isinstance(value, int):
            return value
        if isinstance(value, bool) or not 1 <= value <= MOST_SEEDS:
            raise ValueError(f"give a number of seeds in 1..{MOST_SEEDS}, or a list of seeds")
        return tuple(range(value))


Spec = TypeVar("Spec", bound=SweepSpec)


@dataclass(frozen=True)
class Row:
    """One run of a sweep and its name in it; two rows may be the same run."""

    name: str
    config: RunConfig
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One run and its state.

    Attributes:
        config: the run.
        names: the names of its rows.
        left_out: settings of its rows that the small scale leaves out.
        state: done, partial or missing.
        epochs: finished epochs.
        chunks: finished chunks of its evaluation.
        error: the error of the last attempt, if it failed.
        seconds: estimated time of the remaining work, from similar work; None without measurements.
        whole: whether the estimate covers all of the remaining work.
        alike: whether the estimate comes only from runs of the same method.
    """

    config: RunConfig
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    state: State
    epochs: int
    chunks: int
    error: str | None
    seconds: float | None = None
    whole: bool = False
    alike: bool = False


@dataclass(frozen=True)
class Failure:
    """A run that did not finish."""

    run_id: str
    error: str


def read_spec(path: Path, kind: type[Spec]) -> Spec:
    """Read a sweep of the given kind from a YAML file.

    Raises:
        UserError: see ``read_settings``; or a name is unknown.
    """
    spec: Spec = validated(kind, read_settings(path, "the sweep"))
    return spec


def rows(spec: SweepSpec, costs: dict[str, Any] | None = None) -> list[Row]:
    """The rows of a sweep in order, each run once per seed.

    Args:
        spec: the sweep.
        costs: settings outside the run's identity (results, device, data.root), dotted path to
            value.

    Raises:
        UserError: a name is unknown, a setting is not valid, or there is no run.
    """
    runs = [run for name in spec.recipes for run in _recipe_runs(name)]
    runs += [RunSpec(method=name) for name in spec.methods]
    runs += spec.runs
    if not runs:
        raise UserError("a sweep needs runs: give recipes, methods or runs")
    return [
        _row(run, spec, seed, costs or {}) for run in runs for seed in dict.fromkeys(spec.seeds)
    ]


def _recipe_runs(pattern: str) -> list[RunSpec]:
    if "*" not in pattern:
        return [RunSpec(recipe=pattern)]
    found = sorted(
        (recipe, method)
        for method, entry in METHODS.load_all()[0].items()
        for recipe in entry.recipes
        if fnmatchcase(recipe, pattern)
    )
    if not found:
        raise UserError(f"no recipe matches {pattern!r}: see `list recipes`")
    owners = Counter(recipe for recipe, _ in found)
    return [
        RunSpec(
            method=method,
            recipe=recipe,
            name=recipe if owners[recipe] == 1 else f"{recipe} {method}",
        )
        for recipe, method in found
    ]


def _row(run: RunSpec, spec: SweepSpec, seed: int, costs: dict[str, Any]) -> Row:
    dataset = run.dataset or spec.dataset
    method = run.method or method_of(run.recipe)
    recipe = run.recipe
    scaled: dict[str, JsonValue] = {}
    left_out: tuple[str, ...] = ()
    if spec.scale == "small":
        recipe = recipe or resolve(method, dataset=dataset).recipe
        recipe, scaled, left_out = at_scale(method, recipe)
    settings = {**scaled, **spec.set, **run.set}
    config = resolve(
        method,
        recipe=recipe,
        dataset=dataset if spec.scale == "paper" else None,
        options={**costs, "seed": seed},
        assignments=[f"{path}={json.dumps(value)}" for path, value in settings.items()],
    )
    return Row(run.name or run.recipe or method, config, left_out)


# Images, networks and budget, which the recipe of the small dataset sets.
SIZE = (
    "data",
    "model",
    "teacher",
    "training.epochs",
    "training.batch_size",
    "training.drop_last",
    "training.batchnorm_replicas",
    "training.selection",
    "training.optimizer.lr",
    "training.optimizer.weight_decay",
)
# Radii are scaled like the evaluation's, epochs like the training's.
RADII = ("training.attack.eps", "training.attack.step_size")
EPOCHS = (
    "training.weight_perturbation.start_epoch",
    "training.averaging.start_epoch",
    "training.optimizer.milestones",
    "training.optimizer.warmup_epochs",
)


def at_scale(method: str, recipe: str) -> tuple[str, dict[str, JsonValue], tuple[str, ...]]:
    """A method's recipe at the size of its recipe for the default dataset, which is small.

    A row of a table is the recipe of its dataset with a few changes. These are applied to the
    method's recipe for the small dataset, except for changes of size.

    Returns:
        The recipe of the small dataset, the settings to change in it (dotted path to value), and
        the paths of the row's changes that are left out.

    Raises:
        UserError: the method has no recipe with one of the names.
    """
    row, small = resolve(method, recipe=recipe), resolve(method, recipe=DEFAULT_DATASET)
    if row.data.name == DEFAULT_DATASET:
        return recipe, {}, ()
    own = row.data.name
    usual = resolve(method, recipe=own) if own in METHODS.get(method).recipes else small
    settings, left_out = {}, []
    for path, value in changes(usual, row).items():
        if any(path == size or path.startswith(f"{size}.") for size in SIZE):
            left_out.append(path)
        else:
            settings[path] = _scaled(path, value, row, small)
    return DEFAULT_DATASET, settings, tuple(left_out)


def _scaled(path: str, value: Any, row: RunConfig, small: RunConfig) -> Any:
    if path in RADII:
        return value * small.evaluation.eps[-1] / row.evaluation.eps[-1]
    if path in EPOCHS:
        fraction = small.training.epochs / row.training.epochs
        if isinstance(value, list):
            return [max(1, round(epoch * fraction)) for epoch in value]
        return max(1, round(value * fraction)) if value else value
    return value


def plan(all_rows: Sequence[Row]) -> list[Item]:
    """The distinct runs of a sweep with their state, in order; nothing is written."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in all_rows:
        protocol = fingerprint(row.config.evaluation.identity_payload())
        groups.setdefault((row.config.run_id, protocol), []).append(row)
    return [_item(group) for group in groups.values()]


def _item(group: Sequence[Row]) -> Item:
    config = group[0].config
    directory = RunDirectory(config.results, config.run_id)
    damage = directory.damage if directory.exists else None
    record = directory.record if directory.exists and not damage else {}
    trained = directory.model_path.exists()
    protocols = config.evaluation.protocols()
    found = [find_evaluation(directory, config, each) for each in protocols]
    evaluated = all(map(_is_finished, found, protocols))
    epochs = config.training.epochs if trained else _checkpointed(directory)
    chunks = sum(len(each.finished_chunks()) for each in found if each is not None)
    unfinished: State = "partial" if epochs or chunks else "missing"
    return Item(
        config=config,
        names=tuple(dict.fromkeys(row.name for row in group)),
        left_out=tuple(dict.fromkeys(path for row in group for path in row.left_out)),
        state="done" if trained and evaluated and not damage else unfinished,
        epochs=epochs,
        chunks=chunks,
        error=record.get("error") if record.get("status") == "error" else damage,
    )


def _is_finished(evaluation: EvaluationDirectory | None, protocol: EvalProtocol) -> bool:
    """Whether an evaluation is finished, on enough images, and has the images it should save."""
    if evaluation is None or evaluation.record["status"] != "success":
        return False
    saved = (evaluation.record.get("adversarial") or {}).get("kept")
    return is_enough(evaluation, protocol) and protocol.save_adversarial in ("no", saved)


def _checkpointed(directory: RunDirectory) -> int:
    return len(directory.epochs()) if directory.checkpoint_path.exists() else 0


def find_evaluation(
    directory: RunDirectory, config: RunConfig, protocol: EvalProtocol | None = None
) -> EvaluationDirectory | None:
    """The run's evaluation with a protocol: a finished one, else the one with the most chunks.

    Evaluations with another version of the attacks are left out: ``evaluate`` cannot resume them.

    Args:
        directory: the run directory.
        config: the run's configuration.
        protocol: one of ``config.evaluation.protocols()``; default: the one with the largest
            radius.
    """
    protocol = protocol or config.evaluation.protocols()[-1]
    expected = protocol.identity_payload()
    num_classes = dataset_info(config.data.name, config.data.root).num_classes
    expected["attack_version"] = attack_version(protocol, num_classes)

    def fits(evaluation: EvaluationDirectory) -> bool:
        stored = evaluation.record.get("protocol") or {}
        return all(stored.get(name) == value for name, value in expected.items())

    def progress(evaluation: EvaluationDirectory) -> tuple[bool, int]:
        return evaluation.record["status"] == "success", len(evaluation.finished_chunks())

    readable = [each for each in directory.evaluations() if each.damage is None]
    return max(filter(fits, readable), key=progress, default=None)


def run_missing(
    items: Iterable[Item],
    reporter: Reporter,
    passed: dict[str, Any] | None = None,
) -> list[Failure]:
    """Execute the runs that are not done; a failure is recorded and does not stop the others.

    Args:
        items: the plan.
        reporter: where progress is shown.
        passed: the user's command, kept in each run's record.
    """
    missing = [item for item in items if item.state != "done"]
    failures = []
    for number, item in enumerate(missing, 1):
        config = item.config
        reporter.line(f"[{number}/{len(missing)}] {', '.join(item.names)}: {config.run_id}")
        try:
            runner.run(config, reporter, passed)
        except Exception as error:
            # Any error is recorded and reported, and the other runs continue.
            failures.append(failed(config, error, reporter))
    return failures


def failed(config: RunConfig, error: Exception, reporter: Reporter) -> Failure:
    """Report and record that a run ended with an exception."""
    named = f"{type(error).__name__}: {error}"
    message = str(error) if isinstance(error, UserError) else named
    reporter.line(f"failed: {config.run_id}: {message}")
    record_failure(config, named, reporter)
    return Failure(config.run_id, message)


def record_failure(config: RunConfig, error: str, reporter: Reporter) -> None:
    """Record the failure of a run that failed before it had a record.

    If another process works on the run, it records how that ends.
    """
    directory = RunDirectory.create(config.results, config.run_id)
    with ExitStack() as held:
        try:
            held.enter_context(directory.lock())
        except UserError:
            return
        if directory.exists:
            return
        directory.update(
            **header(config, METHODS.get(config.method), None),
            provenance={},
            started_at=utc_now(),
            finished_at=utc_now(),
            status="error",
            error=error,
        )
        indexed(directory, reporter)
