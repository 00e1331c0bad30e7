"""A run's name depends on exactly the settings that determine its trained model."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

import pytest
import torch
from distilling import TINY, Lines, trained
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from harness.config import EvalConfig, RunConfig, assign, merge
from harness.data import load_dataset
from harness.experiment import runner
from harness.experiment.resolve import resolve, teacher_run
from harness.experiment.trainer import TrainingInputs
from harness.models.loading import load_run_model
from harness.registry import METHODS
from harness.store.rundir import RunDirectory
from harness.training.build import choose_device

BASE: dict[str, Any] = {
    "method": "ikl",
    "training": {"attack": {}},
    "teacher": {"arch": "resnet8", "weights": "0" * 64},
}
CONFIG = RunConfig.model_validate(BASE)
Field = tuple[str, FieldInfo, bool]


def sections(annotation: Any) -> list[type[BaseModel]]:
    kinds = (annotation, *get_args(annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def leaves(model: type[BaseModel], prefix: str = "", hashed: bool = True) -> Iterator[Field]:
    """Dotted path, declaration, and whether the field and its sections are declared as identity."""
    for name, info in model.model_fields.items():
        assert isinstance(info.json_schema_extra, dict), name
        counts = hashed and info.json_schema_extra["identity"] is True
        inner = sections(info.annotation)
        if inner:
            yield from leaves(inner[0], f"{prefix}{name}.", counts)
        else:
            yield prefix + name, info, counts


FIELDS = {path: (info, counts) for path, info, counts in leaves(RunConfig)}
# Declared as identity, but with only one possible value so far.
SINGLE_VALUED = {"training.attack.norm"}
# Other settings that a setting of the evaluation requires.
NEEDS = {
    "half_width": {"order": "random", "limit": None},
    "n_max": {"order": "random", "limit": None},
    "compile": {"accelerate": True},
    "graph_sizes": {"accelerate": True, "compile": False, "device_batch": None},
    "limit": {"order": "file", "half_width": None, "n_max": None},
}


def values(path: str, info: FieldInfo) -> st.SearchStrategy[Any]:
    """Valid values of a field, as in JSON."""
    if path.endswith("evaluation.attacks"):
        return st.lists(st.sampled_from(["apgd-ce", "apgd-t", "fab-t", "square"]), unique=True)
    if path.endswith("evaluation.graph_sizes"):
        return st.lists(st.integers(1, 256), max_size=3)
    if path.endswith("evaluation.eps"):
        return st.lists(st.floats(0, 1, width=16), min_size=1, max_size=3, unique=True)
    kinds = [kind for kind in get_args(info.annotation) if kind is not NoneType]
    optional = NoneType in get_args(info.annotation)
    kind = kinds[0] if optional else info.annotation
    if kind is Path:
        found: st.SearchStrategy[Any] = st.text("abc", min_size=1).map(str)
    elif "JsonValue" in str(kind):
        found = st.dictionaries(st.text("abc"), st.integers(0, 9))
    else:
        plain = [each for each in info.metadata if type(each).__module__ == "annotated_types"]
        found = st.from_type(Annotated[kind, *plain] if plain else kind)
        if kind is float:
            found = found.filter(math.isfinite)
    return st.none() | found if optional else found


def value_at(config: RunConfig, path: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for name in path.split("."):
        value = value[name]
    return value


def changed(path: str, value: Any) -> RunConfig:
    """The base configuration with one field changed; values that are refused are skipped."""
    needed = NEEDS.get(path.removeprefix("evaluation."), {}) if value else {}
    try:
        return RunConfig.model_validate(
            merge(merge(BASE, {"evaluation": needed}), assign(path, value))
        )
    except (ValidationError, OverflowError):
        assume(False)
        raise


def test_the_fields_are_found():
    hashed = {path for path, (_, counts) in FIELDS.items() if counts}
    assert {"seed", "training.attack.eps", "teacher.normalize", "params"} <= hashed
    free = FIELDS.keys() - hashed
    assert {"evaluation.eps", "evaluation.budget.n_iter", "training.monitor.every"} <= free
    assert len(hashed) > 50


@pytest.mark.parametrize("path", sorted(FIELDS.keys() - SINGLE_VALUED))
@settings(max_examples=8, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_a_field_changes_the_name_if_and_only_if_it_is_declared_to(path, data):
    info, counts = FIELDS[path]
    config = changed(path, data.draw(values(path, info)))
    before, after = value_at(CONFIG, path), value_at(config, path)
    assume(before != after)
    assert (config.run_id != CONFIG.run_id) == counts


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_no_evaluation_changes_the_name_of_a_run_or_of_its_teacher(data):
    """All evaluation fields change at once, each at random."""
    layers: dict[str, Any] = {}
    for path, (info, _) in FIELDS.items():
        if path.startswith("evaluation."):
            value = data.draw(values(path, info))
            layers = merge(layers, assign(path.removeprefix("evaluation."), value))
    for name, needed in NEEDS.items():
        layers |= needed if layers[name] else {}
    try:
        evaluation = EvalConfig.model_validate(layers)
    except ValidationError:
        assume(False)
        raise
    assert CONFIG.model_copy(update={"evaluation": evaluation}).run_id == CONFIG.run_id
    other = KD.model_copy(update={"evaluation": evaluation})
    assert other.run_id == KD.run_id
    assert teacher_run(other).run_id == teacher_run(KD).run_id


KD = resolve("kd")


class Forbidden:
    """Replaces the evaluation's settings; reading one fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"training reads evaluation.{name}")


def test_training_reads_no_setting_of_the_evaluation(tmp_path):
    """Epochs are selected on validation images, which are attacked after each epoch."""
    options: dict[str, Any] = {
        **TINY,
        "training.monitor.every": 1,
        "training.monitor.pgd_steps": 1,
        "training.selection.rule": "best-on-val",
        "training.selection.pgd_steps": 2,
        "data.val_size": 20,
    }
    usual = trained(tmp_path / "usual", "pgd-at", **options)
    config = resolve("pgd-at", options={**options, "results": tmp_path / "blind"})
    blind = config.model_copy(update={"evaluation": Forbidden()})
    directory = RunDirectory.create(blind.results, config.run_id)
    data = load_dataset("digits", train_limit=config.data.train_limit)
    inputs = TrainingInputs(data, None, None)
    selected = runner.train(
        blind, METHODS.get("pgd-at"), inputs, directory, Lines(), choose_device("cpu")
    )
    assert selected.epoch == usual.record["selected_epoch"]
    expected = load_run_model(usual).state_dict()
    found = selected.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
