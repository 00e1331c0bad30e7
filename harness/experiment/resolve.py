"""Resolve the user's options to a complete run configuration.

Each layer overrides the one before: the configuration's defaults, the method's recipe, the user's
settings, named options, ``--set`` assignments. The teacher's weights become part of the run's
identity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.config import (
    EvalConfig,
    RunConfig,
    TeacherConfig,
    assign,
    eps_text,
    fingerprint,
    flat,
    merge,
)
from harness.config.validate import validated
from harness.data import dataset_info, dataset_source
from harness.data.base import DatasetInfo
from harness.data.own.folder import OwnFolder
from harness.errors import UserError
from harness.evaluation.attack.protocol import check_radii
from harness.method import Method
from harness.models import ARCHITECTURES
from harness.models.external.probe import identify
from harness.models.loading import is_external, is_function_name, load_external
from harness.registry import METHODS, suggestion, unknown_name
from harness.store.files import file_sha256
from harness.store.rundir import RunDirectory, find_run

DEFAULT_DATASET = "digits"
TORCHVISION = "torchvision:"


def resolve(
    method_name: str | None,
    *,
    recipe: str | None = None,
    dataset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
) -> RunConfig:
    """The configuration of a run of ``method_name``.

    Args:
        method_name: a registered method; by default that of the settings, or of the recipe.
        recipe: one of the method's recipes; by default the one named after the dataset.
        dataset: a registered dataset or a folder; by default the recipe's, else digits.
        settings: sections that override the recipe's, as ``settings_of`` returns them.
        options: dotted path to value; values of None are ignored.
        assignments: ``"a.b=c"`` strings; c is JSON, a fraction such as 8/255, or a plain word.

    Raises:
        UserError: a name is unknown, or a value is not valid.
    """
    sections = dict(settings or {})
    recipe = _agreed("recipe", recipe, sections.pop("recipe", None))
    method_name = _agreed("method", method_name, sections.pop("method", None)) or method_of(recipe)
    method = METHODS.get(method_name)
    name, own = recipe or DEFAULT_DATASET, _section(sections, "data")
    own_dataset = own.get("name") if isinstance(own.get("name"), str) else None
    if chosen := dataset or own_dataset:
        info = dataset_info(chosen, (options or {}).get("data.root") or own.get("root"))
        name = recipe or _recipe_for(info, method)
    layers = merge({"method": method_name, "recipe": name}, _recipe(method_name, method, name))
    norm = layers.get("evaluation", {}).get("norm", EvalConfig().norm)
    if own_dataset is not None:
        layers = _on_dataset(layers, own_dataset)
    layers = merge(layers, sections)
    if dataset is not None:
        layers = _on_dataset(layers, dataset)
    given = [(path, value) for path, value in (options or {}).items() if value is not None]
    given += [parse_assignment(text) for text in assignments]
    for path, value in given:
        if path in ("method", "recipe"):
            raise UserError(f"{path}={value} cannot be a setting: give it with --{path}")
    for path, value in given:
        layers = merge(layers, assign(path, value))
    if layers.get("teacher") is not None and not method.card.needs_teacher:
        raise UserError(f"method {method_name!r} has no teacher: leave the teacher's settings out")
    params = validated(method.params, layers.get("params", {}), "params.")
    config: RunConfig = validated(RunConfig, {**layers, "params": params.model_dump(mode="json")})
    config = _with_files(config)
    ARCHITECTURES.get(config.model.arch)
    if "evaluation.eps" not in dict(given) and "eps" not in _section(sections, "evaluation"):
        check_radius(config.evaluation, norm)
    check_radii(config.evaluation, dataset_info(config.data.name, config.data.root))
    return _with_teacher(config, method)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """A configuration as nested settings, which ``resolve`` accepts and a YAML file can hold."""
    settings = config.model_dump(mode="json")
    if config.teacher is not None:
        del settings["teacher"]["weights"]  # derived from the source
    settings["data"].pop("train_files", None)  # derived from the folder
    return settings


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of settings, empty if missing or not a mapping; validation rejects it later."""
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _agreed(what: str, given: str | None, own: Any) -> str | None:
    """The given name, or else the name in the settings.

    Raises:
        UserError: the two names differ, so the settings belong to something else.
    """
    if not isinstance(own, str | None):
        raise UserError(f"{what} = {own!r} is refused: give its name")
    if given and own and given != own:
        raise UserError(
            f"the settings are for {what} {own!r}, but {what} {given!r} is given: leave one out"
        )
    return given or own


def _recipe_for(info: DatasetInfo, method: Method) -> str:
    """The recipe named after the dataset, else that of the dataset with the most similar images."""
    if info.name in method.recipes:
        return info.name
    found = "imagenet"
    if info.image_size <= 16:
        found = "digits"
    elif info.image_size <= 64:
        found = "fashion-mnist" if info.channels == 1 else "cifar10"
    if found not in method.recipes:
        raise UserError(
            f"{method.card.title} has no recipe for {info.name}: give one of another dataset with "
            f"--recipe ({', '.join(sorted(method.recipes))})"
        )
    return found


def _on_dataset(layers: dict[str, Any], dataset: str) -> dict[str, Any]:
    """A recipe's layers for a dataset, which need not be the recipe's own."""
    own = _section(layers, "data").get("name") == dataset
    layers = merge(layers, {"data": {"name": dataset}})
    if own or not layers.get("teacher"):
        return layers
    # Published weights and the teacher's minimum accuracy only apply to the recipe's own dataset.
    return merge(layers, {"teacher": {"source": "auto", "minimum": None}})


def _with_files(config: RunConfig) -> RunConfig:
    """The configuration with its dataset checked; a folder is named after its content."""
    source = dataset_source(config.data.name, config.data.root)
    if not isinstance(source, OwnFolder):
        return config
    files = {
        "name": source.info.name,
        "root": source.path,
        "train_files": source.files.get("train"),
    }
    return config.model_copy(update={"data": config.data.model_copy(update=files)})


def teacher_run(config: RunConfig) -> RunConfig:
    """The run that trains an ``auto`` teacher; see ``TeacherConfig``. Its evaluation is clean only.

    Raises:
        UserError: the teacher has no method, or its configuration is not valid.
    """
    teacher = _teacher(config)
    if teacher.method is None:
        raise UserError(
            "no method is configured to train the teacher: give a trained one with --teacher, or "
            "set teacher.method"
        )
    if "seed" in teacher.config:
        raise UserError("teacher.config.seed has no effect: set teacher.seed")
    options: dict[str, Any] = {
        **teacher.config,
        "model.arch": teacher.arch,
        "seed": teacher.seed,
        "data.name": config.data.name,
        "data.root": config.data.root,
        "data.workers": config.data.workers,
        "device": config.device,
        "results": config.results,
        "evaluation.attacks": (),
        "evaluation.workers": 1,
    }
    recipe = None if teacher.recipe == "auto" else teacher.recipe
    return resolve(teacher.method, recipe=recipe, dataset=config.data.name, options=options)


def teacher_file(config: RunConfig) -> Path:
    """The weights file of a teacher whose source is ``auto``, a run or a file.

    The file of an ``auto`` teacher may not exist yet.

    Raises:
        UserError: the run has another dataset or network, or the source does not exist.
    """
    teacher = _teacher(config)
    if teacher.source == "auto":
        run_id = teacher_run(config).run_id
        return RunDirectory(config.results, run_id).model_path
    if Path(teacher.source).is_file():
        return Path(teacher.source)
    if "/" in teacher.source and not Path(teacher.source).is_dir():
        raise UserError(f"the teacher's source {teacher.source} is neither a file nor a run")
    run = find_run(config.results, teacher.source)
    record = run.record
    check_source(f"run {run.run_id}", record.get("dataset"), record.get("arch"), config)
    return run.trained_model


def check_source(source: str, dataset: Any, arch: Any, config: RunConfig) -> None:
    """Check that a teacher's source has the run's dataset and the teacher's network.

    Raises:
        UserError: its dataset or network differs.
    """
    expected = _teacher(config).arch
    for what, found, needed in (
        ("dataset", dataset, config.data.name),
        ("network", arch, expected),
    ):
        if found != needed:
            raise UserError(
                f"{source} cannot be the teacher: its {what} is {found}, not {needed}; give "
                "another --teacher, or the teacher's network with --teacher-arch"
            )


def _with_teacher(config: RunConfig, method: Method) -> RunConfig:
    """The configuration with ``teacher.weights`` set."""
    if method.card.needs_teacher and config.teacher is None:
        raise UserError(
            f"method {config.method!r} learns from a teacher: give its network with --teacher-arch"
        )
    if config.teacher is None:
        return config
    if config.teacher.weights is not None:
        raise UserError("teacher.weights follows from the teacher's source: leave it out")
    found = {"weights": _weights(config)}
    if is_own_network(config.teacher.source):
        found["arch"] = config.teacher.source
    else:
        ARCHITECTURES.get(config.teacher.arch)
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=found)})


def is_own_network(source: str) -> bool:
    """Whether a teacher's source brings its own network, not weights for a registered one."""
    return is_external(source) and not source.startswith(TORCHVISION)


def _weights(config: RunConfig) -> str:
    teacher = _teacher(config)
    if teacher.source == "auto":
        return teacher_run(config).run_id
    if is_function_name(teacher.source):
        info = dataset_info(config.data.name, config.data.root)
        return fingerprint(identify(load_external(teacher.source, dataset_info=info)[0], info))
    if is_external(teacher.source):
        return teacher.source
    file = teacher_file(config)
    if teacher.method is not None:
        own = teacher_run(config)
        if file.resolve() == RunDirectory(config.results, own.run_id).model_path.resolve():
            # The user named the file of the teacher that ``auto`` would train.
            return own.run_id
    return file_sha256(file)


def _teacher(config: RunConfig) -> TeacherConfig:
    if config.teacher is None:
        raise TypeError(f"a run of {config.method} has no teacher")
    return config.teacher


def method_of(recipe: str | None) -> str:
    """The only method that has a recipe of that name.

    Raises:
        UserError: no name is given, no method has it, or several do.
    """
    if recipe is None:
        raise UserError(
            "there is no method to train: give --method, or a --recipe of only one method"
        )
    methods, broken = METHODS.load_all()
    owners: dict[str, list[str]] = {}
    for name, method in methods.items():
        for owned in method.recipes:
            owners.setdefault(owned, []).append(name)
    if recipe not in owners:
        unread = "".join(f" Left out: {reason}." for reason in broken.values())
        raise UserError(unknown_name("recipe", recipe, sorted(owners)) + unread)
    if len(owners[recipe]) > 1:
        raise UserError(
            f"{len(owners[recipe])} methods have a recipe {recipe!r} ({', '.join(owners[recipe])}):"
            " name one, with --method in `run` or --methods in `sweep`"
        )
    return owners[recipe][0]


def random_order(info: DatasetInfo) -> dict[str, Any]:
    """Settings for an evaluation that may stop early.

    Its chunks are small enough that it can stop after a twentieth of the test set, if that is at
    least 10 images.
    """
    smallest, default = 10, EvalConfig().chunk_size
    return {
        "order": "random",
        "chunk_size": min(default, max(smallest, info.max_test_size // 20)),
        "limit": None,
    }


def evaluation(
    stored: Mapping[str, Any], overrides: Mapping[str, Any], assignments: Iterable[str]
) -> EvalConfig:
    """An evaluation protocol: ``stored``, changed by the assignments and non-None overrides."""
    given = [(path, value) for path, value in overrides.items() if value is not None]
    for text in assignments:
        path, value = parse_assignment(text)
        given.append((path.removeprefix("evaluation."), value))
    layers = dict(stored)
    for path, value in given:
        layers = merge(layers, assign(path, value))
    config: EvalConfig = validated(EvalConfig, layers, "evaluation.")
    if "eps" not in dict(given):
        check_radius(config, stored.get("norm", EvalConfig().norm))
    return config


def check_radius(protocol: EvalConfig, norm: str) -> None:
    """Check that the radius was chosen for the protocol's norm.

    Raises:
        UserError: it was chosen for another norm, so it has no meaning in this one.
    """
    if protocol.norm != norm:
        raise UserError(
            f"the norm is {protocol.norm}, but the radius {eps_text(protocol.eps[-1])} was chosen "
            f"for {norm}: give eps as well"
        )


def recipe_changes(config: RunConfig) -> dict[str, Any]:
    """The run's changes to its recipe, dotted path to value.

    The seed does not count as a change, nor does a file or a run as the source of the recipe's
    teacher, since the teacher's accuracy is measured and recorded.
    """
    found = changes(resolve(config.method, recipe=config.recipe), config)
    found.pop("seed", None)
    found.pop("data.train_files", None)
    if config.teacher is not None and config.teacher.source != "auto":
        found.pop("teacher.weights", None)
    return found


def changes(base: RunConfig, config: RunConfig) -> dict[str, Any]:
    """The identity fields of ``config`` that differ from ``base``, dotted path to value."""
    before, absent = flat(base.identity_payload(complete=True)), object()
    return {
        path: value
        for path, value in flat(config.identity_payload(complete=True)).items()
        if before.get(path, absent) != value
    }


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse ``"a.b=1"`` into ``("a.b", 1)``; ``UserError`` if that is impossible."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {text!r} is not of the form name=value, such as training.epochs=10")
    try:
        return path.strip(), json.loads(value)
    except json.JSONDecodeError:
        return path.strip(), value.strip()
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--set {path.strip()} has a number that is too long, or too many brackets: shorten it"
        ) from error


def _recipe(method_name: str, method: Method, name: str) -> dict[str, Any]:
    if name not in method.recipes:
        hint = suggestion(name, sorted(method.recipes))
        raise UserError(f"method {method_name!r} has no recipe {name!r}: {hint}")
    return method.recipes[name]()
