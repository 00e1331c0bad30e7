"""Commands shown on a run's page: to repeat the run, and to save an evaluation's images."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.config import EvalConfig, EvalProtocol, RunConfig, eps_text, flat, parse_fraction
from harness.config.validate import validated
from harness.data import DATASETS, dataset_info
from harness.data.files import ROOT_VARIABLE
from harness.errors import UserError
from harness.experiment.resolve import resolve, settings_of
from harness.models import ARCHITECTURES
from harness.models.loading import is_external, is_function_name
from harness.store.rundir import RunDirectory

# Settings that have options of their own.
OPTIONS = {
    "model.arch": "--arch",
    "teacher.source": "--teacher",
    "teacher.arch": "--teacher-arch",
    "training.epochs": "--epochs",
    "training.batch_size": "--batch-size",
    "training.optimizer.lr": "--lr",
    "seed": "--seed",
    "data.train_limit": "--train-limit",
    "data.generated": "--generated",
}
# Settings given in another way, and those of the machine, which change no result.
LEFT_OUT = {
    "recipe",
    "data.root",
    "data.workers",
    "device",
    "evaluation.workers",
    "results",
    "track",
}


def repeat(run: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str | None:
    """The command that repeats a run, whatever was typed to make it.

    None if no command can: for a model or images that were objects in Python, or a run whose method
    or settings this release does not have.

    Args:
        run: as ``queries.run`` returns it.
        evaluation: its main evaluation, as ``queries.evaluations`` returns it; None if it has none.
    """
    if run["kind"] == "loaded":
        start = _of_source(run)
        if start is None or evaluation is None or not evaluation["protocol"]:
            return start
        try:
            return f"{start}{_protocol_options(run, evaluation)}"
        except UserError:
            return None
    try:
        own = validated(RunConfig, run["config"])
        name = run["recipe"] or own.recipe
        recipe = resolve(own.method, recipe=name)
    except UserError:
        return None
    changed = _changed(flat(settings_of(recipe)), flat(settings_of(own)))
    options = _options({path: changed[path] for path in changed if path not in LEFT_OUT})
    names = f"--method {shlex.quote(own.method)} --recipe {shlex.quote(name)}"
    return f"python -m harness run {names}{options}{_data_root(own.data.root)}"


def keep_images(run: Mapping[str, Any], evaluation: Mapping[str, Any], results: Path) -> str | None:
    """The command that recreates an evaluation's adversarial images and saves them.

    None if the weights are not on this machine, for example for an imported run, or if the model
    was an object in Python.

    Raises:
        UserError: this release does not have the run's or the evaluation's settings.
    """
    if run["kind"] == "loaded":
        start = _of_source(run)
    else:
        stored = RunDirectory(results, run["run_id"]).model_path.exists()
        start = f"python -m harness evaluate {shlex.quote(run['run_id'])}" if stored else None
    return start and f"{start}{_protocol_options(run, evaluation)} --save-adversarial uint8"


def _of_source(run: Mapping[str, Any]) -> str | None:
    """The command that loads and evaluates a model again; None if only Python can."""
    typed = run["provenance"].get("command") or []
    typed = typed if typed[1:2] == ["evaluate"] else []
    name, arch = str(run["source"].get("source")), run["source"].get("arch")
    is_file = arch in ARCHITECTURES and not is_external(name)
    dataset = _typed_value(typed, "--dataset") or run["dataset"]
    if not (is_file or is_external(name)) or not (dataset in DATASETS or typed):
        return None
    statistics = run["source"].get("normalize") if is_file or is_function_name(name) else None
    given = {
        "--dataset": dataset,
        "--arch": arch if is_file else None,
        "--weights": run["source"].get("weights") or _typed_value(typed, "--weights"),
        "--weights-key": run["source"].get("weights_key") or _typed_value(typed, "--weights-key"),
        "--normalize": _typed_value(typed, "--normalize") or _statistics(statistics),
    }
    options = "".join(f" {option} {shlex.quote(value)}" for option, value in given.items() if value)
    root = _data_root(_typed_value(typed, "--data-root"))
    return f"python -m harness evaluate {shlex.quote(name)}{options}{root}"


def _typed_value(command: list[str], option: str) -> str | None:
    """The value of an option in a command line; None if it is not given."""
    for word, following in pairwise([*command, ""]):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _statistics(normalize: Mapping[str, Any] | None) -> str | None:
    """Mean and std as ``--normalize`` takes them."""
    if not normalize:
        return None
    return ";".join(",".join(map(str, normalize[name])) for name in ("mean", "std"))


def _data_root(own: Path | str | None) -> str:
    """The option for the folder of a run's images: its own if it is here, else the app's."""
    folder = own if own and Path(own).is_dir() else os.environ.get(ROOT_VARIABLE)
    return f" --data-root {shlex.quote(str(folder))}" if folder else ""


def _protocol_options(run: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """The options by which ``evaluate`` follows an evaluation's protocol, if they are needed.

    Raises:
        UserError: this release does not have the run's or the evaluation's settings.
    """
    protocol = json.loads(evaluation["protocol"])
    own = run["config"].get("evaluation") or {"eps": _customary_eps(run["dataset"])}
    made = {name: protocol[name] for name in EvalProtocol.model_fields if name in protocol}
    payloads = (
        each.identity_payload(complete=True)
        for each in (validated(EvalConfig, own), validated(EvalProtocol, made))
    )
    changed = _changed(*(flat({"evaluation": payload}) for payload in payloads))
    if protocol.get("order") == "random":
        changed["evaluation.n_max"] = protocol["n"]
    return _options(changed)


def _customary_eps(dataset: str) -> float:
    """The command's default radius; 0 if unknown, so that the radius is always given."""
    try:
        return dataset_info(dataset).default_eps
    except UserError:  # a folder that this process has not opened, or images from Python
        return 0.0


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ; with another norm also the radius, which must then be given."""
    absent, norm = object(), "evaluation.norm"
    needed = {"evaluation.eps"} if before[norm] != after[norm] else set()
    return {
        path: value
        for path, value in after.items()
        if path in needed or before.get(path, absent) != value
    }


def _options(changed: Mapping[str, Any]) -> str:
    """Settings, dotted path to value, as options, each after a space."""
    words = []
    for path, value in changed.items():
        if path in OPTIONS and value is not None:
            words += [OPTIONS[path], str(value)]
        else:
            words += ["--set", f"{path}={_text(path, value)}"]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _text(path: str, value: Any) -> str:
    """A value for ``--set``, which reads JSON, and fractions and names where they are expected."""
    if path == "evaluation.eps":
        return ",".join(map(_radius, value if isinstance(value, list) else [value]))
    if path == "evaluation.attacks":
        return ",".join(value) or "none"
    return json.dumps(value)


def _radius(eps: float) -> str:
    """A radius as papers write it, if that is exact."""
    text = eps_text(eps)
    return text if float(parse_fraction(text)) == eps else repr(eps)
