"""Sweeps: many runs, of which those that are missing are run, one after the other.

``rows`` says which runs a sweep is, ``plan`` what of them is done, and ``run_missing`` does the
rest. A sweep keeps nothing of its own: the run directories say what is done, so that any sweep, and
any other command, takes up what another one finished.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, JsonValue, field_validator

from harness.config import EvalProtocol, RunConfig, Strict, fingerprint
from harness.data import dataset_info
from harness.errors import UserError
from harness.evaluation.attack.protocol import attack_version
from harness.experiment import runner
from harness.experiment.resolve import DEFAULT_DATASET, method_of, resolve, validated
from harness.experiment.scale import at_scale
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import EvaluationDirectory, RunDirectory, utc_now

State = Literal["done", "partial", "missing"]


class RunSpec(Strict):
    """One run of a sweep's file: a method or a recipe that one method has, and its settings."""

    method: str | None = None
    recipe: str | None = None
    dataset: str | None = None
    name: str | None = None
    set: dict[str, JsonValue] = Field(default_factory=dict)


class SweepSpec(Strict):
    """Which runs a sweep is: those of a table, of methods, of recipes and of a list, together.

    ``set`` is laid on all of them, under what a run of the list sets itself. ``scale: small`` takes
    each recipe at the size of the method's recipe for digits. ``seeds`` is how many, from 0, or
    which.
    """

    table: int | None = None
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
        return tuple(range(value)) if isinstance(value, int) else value


@dataclass(frozen=True)
class Row:
    """One run of a sweep under its name there; two rows may be the same run."""

    name: str
    config: RunConfig
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One run with what is done of it.

    Attributes:
        config: the run.
        names: the rows that it is.
        left_out: settings of a row that its small size does not have.
        state: done, partial or missing.
        epochs: finished epochs.
        chunks: finished chunks of its evaluation.
        error: why the last attempt ended, if it failed.
        seconds: the estimate for what is left, as far as like work was measured; None where none
            was.
        whole: whether the estimate covers both training and evaluation.
        alike: whether the estimate is of runs of the same method.
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


def read_spec(path: Path) -> SweepSpec:
    """The sweep that a YAML file describes.

    Raises:
        UserError: the file cannot be read, is no YAML mapping, or has a name that is not known.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the sweep {path} ({error}): check the path") from error
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise UserError(f"the sweep {path} is no valid YAML: {told}") from error
    if not isinstance(values, dict):
        raise UserError(f"the sweep {path} is no mapping: write settings such as `methods: [...]`")
    spec: SweepSpec = validated(SweepSpec, values)
    return spec


def rows(spec: SweepSpec, costs: dict[str, Any] | None = None) -> list[Row]:
    """The rows of a sweep in order, seed by seed within each.

    Args:
        spec: the sweep.
        costs: settings that change no answer (results, device, data.root), dotted path to value.

    Raises:
        UserError: a name is not known, a setting is refused, or there is no run.
    """
    wanted = [*_table(spec.table), *[RunSpec(recipe=name) for name in spec.recipes]]
    wanted += [RunSpec(method=name) for name in spec.methods]
    wanted += spec.runs
    if not wanted:
        raise UserError("a sweep needs runs: give a table, methods, recipes or runs")
    return [
        _row(run, spec, seed, costs or {}) for run in wanted for seed in dict.fromkeys(spec.seeds)
    ]


def _table(number: int | None) -> list[RunSpec]:
    if number is None:
        return []
    found = sorted(
        (recipe, method)
        for method in METHODS.names()
        for recipe in METHODS.get(method).recipes
        if recipe.startswith(f"table{number}/")
    )
    if not found:
        raise UserError(f"no recipe belongs to table {number}: see `list recipes`")
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
    recipe = run.recipe or dataset or DEFAULT_DATASET
    scaled: dict[str, JsonValue] = {}
    left_out: tuple[str, ...] = ()
    if spec.scale == "small":
        found = at_scale(method, recipe, DEFAULT_DATASET)
        recipe, scaled, left_out = found.recipe, found.settings, found.left_out
    settings = {**scaled, **spec.set, **run.set}
    config = resolve(
        method,
        recipe=recipe,
        dataset=dataset if spec.scale == "paper" else None,
        options={**costs, "seed": seed},
        assignments=[f"{path}={json.dumps(value)}" for path, value in settings.items()],
    )
    return Row(run.name or run.recipe or method, config, left_out)


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
    record = directory.record if directory.exists else {}
    trained = directory.model_path.exists()
    found = [find_evaluation(directory, config, each) for each in config.evaluation.protocols()]
    evaluated = all(each is not None and each.record["status"] == "success" for each in found)
    epochs = config.training.epochs if trained else _checkpointed(directory)
    chunks = sum(len(each.finished_chunks()) for each in found if each is not None)
    begun: State = "partial" if epochs or chunks else "missing"
    return Item(
        config=config,
        names=tuple(dict.fromkeys(row.name for row in group)),
        left_out=tuple(dict.fromkeys(path for row in group for path in row.left_out)),
        state="done" if trained and evaluated else begun,
        epochs=epochs,
        chunks=chunks,
        error=record.get("error") if record.get("status") == "error" else None,
    )


def _checkpointed(directory: RunDirectory) -> int:
    return len(directory.epochs()) if directory.checkpoint_path.exists() else 0


def find_evaluation(
    directory: RunDirectory, config: RunConfig, protocol: EvalProtocol | None = None
) -> EvaluationDirectory | None:
    """The run's evaluation by a protocol: a finished one, else that of most chunks.

    One by another version of the attacks is none: ``evaluate`` would not go on from it.

    Args:
        directory: the run's.
        config: its configuration.
        protocol: one of ``config.evaluation``; by default that of the largest radius.
    """
    protocol = protocol or config.evaluation.protocols()[-1]
    wanted = protocol.identity_payload()
    wanted["attack_version"] = attack_version(protocol, dataset_info(config.data.name).num_classes)

    def fits(evaluation: EvaluationDirectory) -> bool:
        told = evaluation.record.get("protocol") or {}
        return all(told.get(name) == value for name, value in wanted.items())

    def progress(evaluation: EvaluationDirectory) -> tuple[bool, int]:
        return evaluation.record["status"] == "success", len(evaluation.finished_chunks())

    return max(filter(fits, directory.evaluations()), key=progress, default=None)


def run_missing(
    items: Iterable[Item],
    reporter: Reporter,
    passed: dict[str, Any] | None = None,
    execute: Callable[..., Any] = runner.run,
) -> list[Failure]:
    """Run what is not done; a run that fails is recorded and the others go on.

    Args:
        items: the plan.
        reporter: where progress is shown.
        passed: what the user typed, kept in each run's record.
        execute: what runs one configuration, as ``runner.run`` does.
    """
    missing = [item for item in items if item.state != "done"]
    failures = []
    for number, item in enumerate(missing, 1):
        config = item.config
        reporter.line(f"[{number}/{len(missing)}] {', '.join(item.names)}: {config.run_id}")
        try:
            execute(config, reporter, passed=passed)
        except Exception as error:
            # Whatever stopped this run, the others are worth having; it is recorded and counted.
            failures.append(failed(config, error, reporter))
    return failures


def failed(config: RunConfig, error: Exception, reporter: Reporter) -> Failure:
    """Say and record that a run ended with an exception."""
    named = f"{type(error).__name__}: {error}"
    told = str(error) if isinstance(error, UserError) else named
    reporter.line(f"failed: {config.run_id}: {told}")
    record_failure(config, named)
    return Failure(config.run_id, told)


def record_failure(config: RunConfig, error: str) -> None:
    """Make a run's record say that it failed, where it failed before it had a record."""
    directory = RunDirectory.create(config.results, config.run_id)
    if directory.exists:
        return
    card = METHODS.get(config.method).card
    directory.update(
        kind="trained",
        method=config.method,
        method_title=card.title,
        task=card.family,
        dataset=config.data.name,
        arch=config.model.arch,
        recipe=config.recipe,
        scale="small" if dataset_info(config.data.name).small_scale else "paper",
        seed=config.seed,
        config=config.model_dump(mode="json"),
        provenance={},
        started_at=utc_now(),
        finished_at=utc_now(),
        status="error",
        error=error,
    )
    Database(config.results).record(directory)
