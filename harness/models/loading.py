"""Load models from checkpoint files, model zoos and Python functions."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.errors import UserError, first_line
from harness.models import build_model
from harness.models.checkpoint import (
    MODEL_FORMAT,
    adapt_names,
    find_state,
    load_weights,
    read_checkpoint,
    read_state,
    state_dict_sha256,
    weights_only,
)
from harness.models.zoos import ZOOS, Loaded
from harness.provenance import source_sha256
from harness.store.files import file_sha256

if TYPE_CHECKING:
    from harness.data.base import DatasetInfo

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_external(
    spec: str,
    *,
    dataset_info: DatasetInfo,
    arch: str | None = None,
    weights: Path | None = None,
    threat: str = "Linf",
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a trained model of images in [0, 1], in eval mode, and facts about it.

    Weights are read without running code that a file may contain. Images are normalised as the
    source says; a bare state dict says nothing. A ``spec`` is one of

    * ``path/to/file.pt``: a model saved by a run, or a state dict of the architecture ``arch``;
    * ``robustbench:NAME``: an entry of RobustBench's model zoo for the dataset and ``threat``;
    * ``timm:NAME``: with its default pretrained weights;
    * ``torchvision:NAME``: with its weights ``IMAGENET1K_V1``, which the literature uses;
    * ``package.module:function``: a function without arguments that returns the network.

    Args:
        spec: the source.
        dataset_info: the dataset that the model classifies.
        arch: a name in ``ARCHITECTURES``, for a state dict.
        weights: a file of weights for the other sources, instead of a download.
        threat: RobustBench's threat model: Linf, L2 or corruptions.

    Returns:
        The model, and ``source``, ``arch``, ``model_name``, ``normalize`` (None, or mean and std),
        ``sha256`` of the file of weights, or of the state dict if there is no single file, and for
        a function ``code_sha256``, the hash of its module by ``source_sha256``.

    Raises:
        UserError: the model cannot be loaded, or does not match the dataset.
    """
    scheme, _, name = spec.partition(":")
    is_function = FUNCTION.fullmatch(spec) and not Path(spec).exists()
    is_file = scheme not in ZOOS and not is_function
    if arch and not is_file:
        raise UserError(f"architecture {arch} was given, but {spec} has its own: leave it out")
    if weights and is_file:
        raise UserError(f"weights {weights} were given, but {spec} is itself a file of weights")
    with weights_only():
        if scheme in ZOOS:
            loaded = ZOOS[scheme](name, dataset_info, threat, weights)
        elif is_file:
            loaded = from_checkpoint(Path(spec), dataset_info, arch)
        else:
            loaded = from_function(spec, weights)
    model, statistics = loaded.model().eval(), loaded.statistics
    check_output(model, dataset_info, spec)
    facts: dict[str, Any] = {
        "source": spec,
        "sha256": loaded.sha256 or state_dict_sha256(model),
        "arch": loaded.arch,
        "model_name": loaded.name,
        "normalize": statistics and {"mean": list(statistics[0]), "std": list(statistics[1])},
    }
    if is_function:
        facts["code_sha256"] = source_sha256(scheme)
    return model, facts


def load_model_file(path: Path) -> nn.Module:
    """Load the model that a run saved, in eval mode.

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
    """Build the network from a checkpoint saved by a run."""
    arch = content["arch"]
    network = build_model(
        arch, content["num_classes"], content["in_channels"], content["image_size"]
    )
    statistics = load_weights(network, find_state(content, str(path)), str(path))
    if content["normalize"]:
        statistics = (content["normalize"]["mean"], content["normalize"]["std"])
    return Loaded(network, arch, path.name, statistics, file_sha256(path))


def from_checkpoint(path: Path, info: DatasetInfo, arch: str | None) -> Loaded:
    """Build the network from a checkpoint file."""
    content = read_checkpoint(path)
    if is_own(content):
        if arch not in (None, content["arch"]):
            raise UserError(f"{path} holds a {content['arch']}, not a {arch}: leave out --arch")
        check_classes(content["num_classes"], info, str(path))
        return from_own(content, path)
    state = find_state(content, str(path))
    if arch is None:
        raise UserError(
            f"{path} holds a state dict, which does not name its architecture: give --arch "
            "(`list models` shows the names)"
        )
    network = build_model(arch, info.num_classes, info.channels, info.image_size)
    classifier = adapt_names(state, network).get("fc.weight")
    if classifier is not None:
        check_classes(len(classifier), info, str(path))
    statistics = load_weights(network, state, str(path))
    return Loaded(network, arch, path.name, statistics, file_sha256(path))


def from_function(spec: str, weights: Path | None) -> Loaded:
    """Call a Python function ``package.module:function`` that returns a network."""
    module_name, _, function = spec.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), function)
    except Exception as error:  # the module can raise anything
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
    except Exception as error:  # the function can raise anything
        raise UserError(
            f"{spec} raised {first_line(error)} when it was called without arguments: it must take "
            "no argument and return an nn.Module"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{spec} returned a {type(network).__name__}: it must return an nn.Module")
    if weights is None:
        return Loaded(network, type(network).__name__, spec)
    statistics = load_weights(network, read_state(weights), str(weights))
    return Loaded(network, type(network).__name__, spec, statistics, file_sha256(weights))


def check_classes(num_classes: int, info: DatasetInfo, source: str) -> None:
    """Raise ``UserError`` unless a model has as many classes as the dataset."""
    if num_classes != info.num_classes:
        raise UserError(
            f"{source} has {num_classes} classes, but {info.name} has {info.num_classes}: choose "
            "the dataset that it was trained on"
        )


def check_output(model: nn.Module, info: DatasetInfo, source: str) -> None:
    """Raise ``UserError`` unless a model maps images of the dataset to logits [B, C]."""
    for count in (3, 1):  # attacks can end with one image, whose batch `squeeze` would drop
        output = output_for(model, count, info, source)
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != count:
            kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"{source} does not return logits [B, C] (for {count} "
                f"image{'s' if count > 1 else ''} it returns {kind}): wrap it so that it does"
            )
        check_classes(output.shape[1], info, source)


def output_for(model: nn.Module, count: int, info: DatasetInfo, source: str) -> Any:
    """A model's output for ``count`` gray images of the dataset's shape."""
    size = info.image_size
    device = next((parameter.device for parameter in model.parameters()), None)
    try:
        with torch.no_grad():
            return model(torch.full((count, info.channels, size, size), 0.5, device=device))
    except Exception as error:  # the network can raise anything
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        other = next((dtype for dtype in floats if dtype != torch.float32), None)
        if other is not None:
            raise UserError(
                f"{source} has {str(other).removeprefix('torch.')} parameters and cannot take "
                "images in float32: call .float() on the network first"
            ) from error
        if count == 1:
            raise UserError(
                f"{source} cannot take a single image ({first_line(error)}): "
                "wrap it so that it does"
            ) from error
        raise UserError(
            f"{source} cannot take {info.name} images of {info.channels}x{size}x{size} "
            f"({first_line(error)}): choose the dataset that it was trained on"
        ) from error
