"""Load models from checkpoint files, model zoos and Python functions."""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn

from harness.errors import UserError, first_line
from harness.models import build_model
from harness.models.checkpoint import (
    MODEL_FORMAT,
    read_checkpoint,
    state_dict_sha256,
    weights_only,
)
from harness.models.external.probe import check_classes, check_model
from harness.models.external.unwrap import load_weights, nearest_weights
from harness.models.normalize import Statistics, statistics_of
from harness.models.zoos import ZOOS, Loaded
from harness.store.files import file_sha256

if TYPE_CHECKING:
    from harness.data.base import DatasetInfo
    from harness.store.rundir import RunDirectory

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# More classes, channels or pixels than any network here has.
LARGEST_SIZE = 100_000
# Fields of a run's model file, and their types.
OWN_FIELDS: dict[str, Any] = {
    "arch": str,
    "num_classes": int,
    "in_channels": int,
    "image_size": int,
    "normalize": dict | None,
    "state_dict": Mapping,
}


def load_external(
    spec: str,
    *,
    dataset_info: DatasetInfo,
    arch: str | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    normalize: str | Statistics | None = None,
    threat: str = "Linf",
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a trained model of images in [0, 1], in eval mode, and facts about it.

    Weights are read without running code that a file may contain. Images are normalised as the
    source specifies, unless ``normalize`` is given; a bare state dict specifies nothing. A ``spec``
    is one of

    * ``path/to/file.pt``: a model saved by a run, or a state dict of the architecture ``arch``;
    * ``robustbench:NAME``: an entry of RobustBench's model zoo for the dataset and ``threat``;
    * ``timm:NAME``: a timm model with its default pretrained weights;
    * ``torchvision:NAME``: a torchvision model with its ``IMAGENET1K_V1`` weights, which the
      literature uses;
    * ``package.module:function``: a function without arguments that returns the network.

    Args:
        spec: the source.
        dataset_info: the dataset that the model classifies.
        arch: a name in ``ARCHITECTURES``, for a state dict.
        weights: a weights file for the other sources, instead of a download.
        weights_key: which weights to use if a file holds several.
        normalize: ``dataset``, ``imagenet``, ``none``, (mean, std) or text such as ``0.5;0.2``.
        threat: RobustBench's threat model: Linf, L2 or corruptions.

    Returns:
        The model, and ``source``, ``arch``, ``model_name``, ``normalize`` (None, or mean and std),
        ``sha256`` of the weights file, or of the state dict if there is no single file, the given
        ``weights`` and ``weights_key``, ``notes`` for the user, one sentence each, and
        ``preparation`` if the source specifies one other than the dataset's usual one.

    Raises:
        UserError: the model cannot be loaded, or does not match the dataset.
    """
    scheme, _, name = spec.partition(":")
    is_function = is_function_name(spec)
    is_file = scheme not in ZOOS and not is_function
    if arch and not is_file:
        raise UserError(f"architecture {arch} was given, but {spec} has its own: leave it out")
    if weights and is_file:
        raise UserError(f"weights {weights} were given, but {spec} is itself a file of weights")
    if weights_key and not (weights or is_file):
        raise UserError(
            f"weights key {weights_key} was given, but no weights file for {spec}: give --weights "
            "as well, or leave it out"
        )
    path = None if weights is None else Path(weights)
    with weights_only():
        if scheme in ZOOS:
            loaded = ZOOS[scheme](name, dataset_info, threat, path, weights_key)
        elif is_file:
            loaded = from_checkpoint(Path(spec), dataset_info, arch, weights_key, normalize)
        else:
            loaded = from_function(spec, path, weights_key)
    if normalize is not None:
        loaded = replace(loaded, statistics=statistics_of(normalize, dataset_info))
    model, statistics = loaded.model().eval(), loaded.statistics
    info, preparation = dataset_info, loaded.preparation
    if preparation is not None:
        info = dataset_info.prepared(preparation)
    notes = [*loaded.notes, *check_model(model, info, spec)]
    prepared = {}
    if preparation is not None and info is not dataset_info:
        prepared = {"preparation": asdict(preparation)}
        notes.append(f"images are prepared as the source says: {preparation}")
    return model, prepared | {
        "source": spec,
        "sha256": loaded.sha256 or state_dict_sha256(model),
        "arch": loaded.arch,
        "model_name": loaded.name,
        "normalize": statistics and {"mean": list(statistics[0]), "std": list(statistics[1])},
        "weights": None if path is None else str(path),
        "weights_key": weights_key,
        "notes": notes,
    }


def is_function_name(spec: str) -> bool:
    """Whether a source has the form ``package.module:function`` and names no file or zoo."""
    named = FUNCTION.fullmatch(spec) is not None and not os.path.exists(spec)
    return named and spec.partition(":")[0] not in ZOOS


def is_external(spec: str) -> bool:
    """Whether a source is a zoo's network or a function, not a run or a file."""
    return spec.partition(":")[0] in ZOOS or is_function_name(spec)


def load_run_model(run: RunDirectory) -> nn.Module:
    """Load a run's model in eval mode, and check that it is the one that was trained.

    Raises:
        UserError: training is not finished, or the model file is damaged or was replaced.
    """
    model = load_model_file(run.trained_model)
    trained = run.record.get("model_sha256") if run.exists else None
    if trained not in (None, state_dict_sha256(model)):
        raise UserError(
            f"{run.model_path} holds other weights than those that {run.run_id} trained: restore "
            "the file, or evaluate this one from another folder as an external model"
        )
    return model


def load_model_file(path: Path) -> nn.Module:
    """Load a model that a run saved, in eval mode.

    Raises:
        UserError: the file cannot be read, or was not saved by a run.
    """
    try:
        content = read_checkpoint(path)
    except UserError as error:
        if error.__cause__ is None:
            raise
        raise UserError(
            f"{path} is damaged ({type(error.__cause__).__name__}): restore it from a copy, or "
            "move the run's folder away and train it again with `run`"
        ) from error
    if not is_own(content):
        raise UserError(f"{path} was not saved by a run: load it as an external model")
    return from_own(content, path).model().eval()


def is_own(content: Any) -> bool:
    """Whether a checkpoint's content was saved by a run."""
    return isinstance(content, Mapping) and content.get("format") == MODEL_FORMAT


def from_own(content: Mapping[str, Any], path: Path) -> Loaded:
    """Build the network from a checkpoint saved by a run.

    Raises:
        UserError: a field is missing or has an invalid value.
    """
    for name, kind in OWN_FIELDS.items():
        value: Any = content.get(name)
        fits = name in content and isinstance(value, kind)
        if not fits or (kind is int and not 1 <= value <= LARGEST_SIZE):
            raise UserError(
                f"{path} has {name} {value!r}, which no run writes: restore the file from a copy"
            )
    arch = content["arch"]
    network = build_model(
        arch, content["num_classes"], content["in_channels"], content["image_size"]
    )
    taken = load_weights(network, content["state_dict"], str(path))
    statistics = taken.statistics
    if content["normalize"] is not None:
        statistics = statistics_from(content["normalize"], str(path))
    return Loaded(network, arch, path.name, statistics, file_sha256(path))


def statistics_from(normalize: Mapping[str, Any], source: str) -> Statistics:
    """Return the mean and std of a run's checkpoint; ``UserError`` if they are invalid."""
    mean, std = normalize.get("mean"), normalize.get("std")
    if not (_are_numbers(mean) and _are_numbers(std) and len(mean) == len(std) and min(std) > 0):
        raise UserError(
            f"{source} has normalize {dict(normalize)!r}, which no run writes: restore the file "
            "from a copy"
        )
    return mean, std


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(each, int | float) and math.isfinite(each) for each in values)
    )


def from_checkpoint(
    path: Path,
    info: DatasetInfo,
    arch: str | None,
    key: str | None = None,
    normalize: str | Statistics | None = None,
) -> Loaded:
    """Build the network from a checkpoint file; a note says if its normalisation is unknown."""
    content = read_checkpoint(path)
    if is_own(content):
        if arch not in (None, content.get("arch")):
            raise UserError(f"{path} holds a {content['arch']}, not a {arch}: leave out --arch")
        if key:
            raise UserError(
                f"weights key {key} was given, but {path} was saved by a run, whose weights are "
                "the only ones in it: leave it out"
            )
        loaded = from_own(content, path)
        check_classes(content["num_classes"], info, str(path))
        return loaded
    if arch is None:
        raise UserError(
            f"{path} holds a state dict, which does not name its architecture: give --arch "
            "(`list models` shows the names)"
        )
    network = build_model(arch, info.num_classes, info.channels, info.image_size)
    classifier = nearest_weights(network, content).get("fc.weight")
    if classifier is not None and classifier.ndim == 2:
        check_classes(len(classifier), info, str(path))
    taken = load_weights(network, content, str(path), key)
    notes = taken.notes
    if taken.statistics is None and normalize is None:
        notes += (f"{path} does not say how images were normalised, and normalize is not given",)
    return Loaded(network, arch, path.name, taken.statistics, file_sha256(path), notes)


def from_function(spec: str, weights: Path | None, key: str | None = None) -> Loaded:
    """Call a Python function ``package.module:function`` that returns a network."""
    module_name, _, function = spec.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), function)
    except (Exception, SystemExit) as error:  # the module can raise anything
        absent = isinstance(error, ImportError | AttributeError)
        remedy = "check the name and PYTHONPATH" if absent else "fix the module"
        raise UserError(f"{spec} cannot be imported ({first_line(error)}): {remedy}") from error
    if isinstance(make, nn.Module) or not callable(make):
        raise UserError(
            f"{spec} is of type {type(make).__name__}, not a function: name a function without "
            "arguments that returns an nn.Module"
        )
    try:
        network = make()
    except (Exception, SystemExit) as error:  # the function can raise anything
        raise UserError(
            f"{spec} raised {first_line(error)} when it was called without arguments: it must take "
            "no argument and return an nn.Module"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{spec} returned a {type(network).__name__}: it must return an nn.Module")
    if weights is None:
        return Loaded(network, type(network).__name__, spec)
    taken = load_weights(network, read_checkpoint(weights), str(weights), key)
    return Loaded(
        network, type(network).__name__, spec, taken.statistics, file_sha256(weights), taken.notes
    )
