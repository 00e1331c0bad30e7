"""Export a run's model to files for other programs, and check each file by reading it back."""

from __future__ import annotations

import importlib
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError, first_line
from harness.models import build_model
from harness.models.normalize import Normalized
from harness.store.files import make_folder

INPUT, OUTPUT = "images", "logits"
# Logits of other programs may differ by this fraction of the largest: they sum in another order.
TOLERANCE = 1e-4
PROBE_BATCHES = (5, 1)

Read = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A model to export.

    Attributes:
        model: maps images [B, K, S, S] in [0, 1] to logits [B, C], in eval mode on the CPU.
        arch: the registered name of the network.
        shape: classes, channels and image size (C, K, S), with which the network is built.
        facts: text for the file's metadata, if the format has any.
    """

    model: nn.Module
    arch: str
    shape: tuple[int, int, int]
    facts: Mapping[str, str]

    def images(self, count: int) -> Tensor:
        """Return random images, the same on each call."""
        _, channels, size = self.shape
        generator = torch.Generator().manual_seed(0)
        return torch.rand((count, channels, size, size), generator=generator)

    def with_weights(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Build a new network of the same architecture with these weights and buffers."""
        network: nn.Module = build_model(self.arch, *self.shape)
        if isinstance(self.model, Normalized):
            channels = self.shape[1]
            network = Normalized(network, [0.0] * channels, [1.0] * channels)
        network.load_state_dict(state)
        return network.eval()


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        file: the file's name.
        write: writes the model.
        read: reads the file as a user would, into a function from images to logits.
        packages: optional packages that both need.
        exact: whether the logits must be equal to the last bit.
    """

    file: str
    write: Callable[[Exported, Path], None]
    read: Callable[[Exported, Path], Read]
    packages: tuple[str, ...] = ()
    exact: bool = False


def export_model(exported: Exported, form: str, folder: Path) -> Path:
    """Write a model file into a folder and check that it gives the model's logits.

    Args:
        exported: the model.
        form: a name in ``FORMATS``.
        folder: created if missing; a file of the same name is replaced.

    Returns:
        The path of the file.

    Raises:
        UserError: a package is missing, the network cannot be written in this format, or the file
            gives different logits; then no file is left behind.
    """
    kind = format_of(form)
    for package in kind.packages:
        check_installed(package, form)
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as place:
        path = Path(place) / kind.file
        try:
            kind.write(exported, path)
            read = kind.read(exported, path)
            differences = [_difference(exported, read, count) for count in PROBE_BATCHES]
        except Exception as error:  # exporters raise anything
            raise UserError(
                f"{exported.arch} cannot be exported as {form} ({first_line(error)}): choose "
                "another --format"
            ) from error
        limit = 0 if kind.exact else TOLERANCE
        wrong = [each for each in differences if not each <= limit]  # NaN too
        if wrong:
            raise UserError(
                f"the file exported as {form} gives other logits than the run's model (by "
                f"{max(wrong):.1e} of the largest), so it was removed: choose another "
                "--format"
            )
        return path.replace(folder / kind.file)


def _difference(exported: Exported, read: Read, count: int) -> float:
    """Return the largest difference of the logits as a fraction of the largest logit."""
    images = exported.images(count)
    with torch.no_grad():
        expected, found = exported.model(images), read(images)
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def format_of(name: str) -> Format:
    """Return the format of this name; ``UserError`` if there is none."""
    if name not in FORMATS:
        raise UserError(f"there is no format {name!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def check_installed(package: str, form: str) -> None:
    """Raise ``UserError`` if an optional package is not installed."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"--format {form} needs the package {package}, which is not installed: "
            "pip install 'divergence-bench[export]'"
        ) from error


def _write_state_dict(exported: Exported, path: Path) -> None:
    torch.save(exported.model.state_dict(), path)


def _read_state_dict(exported: Exported, path: Path) -> Read:
    return exported.with_weights(torch.load(path, weights_only=True))


def _write_safetensors(exported: Exported, path: Path) -> None:
    package = importlib.import_module("safetensors.torch")
    # The format does not allow tensors that share memory, so each gets its own.
    state = {name: tensor.clone() for name, tensor in exported.model.state_dict().items()}
    path.write_bytes(package.save(state, metadata=dict(exported.facts)))


def _read_safetensors(exported: Exported, path: Path) -> Read:
    return exported.with_weights(importlib.import_module("safetensors.torch").load_file(path))


def _write_torchscript(exported: Exported, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but many programs still load it
        traced = torch.jit.trace(exported.model, exported.images(2))
        traced.save(path, _extra_files={"facts.json": json.dumps(dict(exported.facts))})


def _read_torchscript(exported: Exported, path: Path) -> Read:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Read = torch.jit.load(path)
    return loaded


def _write_onnx(exported: Exported, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        program: Any = torch.onnx.export(
            exported.model,
            (exported.images(2),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    program.model.metadata_props.update(exported.facts)
    program.save(path, external_data=False)
    importlib.import_module("onnx").checker.check_model(str(path))


def _read_onnx(exported: Exported, path: Path) -> Read:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


FORMATS = {
    "safetensors": Format(
        "model.safetensors", _write_safetensors, _read_safetensors, ("safetensors",), exact=True
    ),
    "state-dict": Format("model.pt", _write_state_dict, _read_state_dict, exact=True),
    "torchscript": Format("model.torchscript", _write_torchscript, _read_torchscript),
    "onnx": Format("model.onnx", _write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
}
