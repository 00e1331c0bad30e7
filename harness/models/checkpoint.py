"""Write model files for runs, and read checkpoints without running code they may contain."""

from __future__ import annotations

import argparse
import codecs
import datetime
import hashlib
import importlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.store.files import read_torch, write_torch_atomic

MODEL_FORMAT = "divergence-bench model"
# First bytes of other file formats, with what the file is and what to do.
OTHER_FORMATS = {
    b"<": (
        "is a web page, not a checkpoint (a download that needs confirmation saves one): delete it "
        "and download the file with a browser"
    ),
    b"version https://git-lfs": (
        "is a Git LFS pointer, not the file itself: fetch the file with `git lfs pull`"
    ),
    b"\x89HDF": "is an HDF5 file, as Keras writes it: convert its weights to a PyTorch state dict",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
}


def save_model(path: Path, model: nn.Module, **facts: Any) -> None:
    """Write a model's weights with the ``facts`` that ``load_model_file`` needs to build it."""
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_torch_atomic({"format": MODEL_FORMAT, **facts, "state_dict": weights}, path)


def read_checkpoint(path: Path) -> Any:
    """Read a PyTorch file with ``read_torch``, or a safetensors file, to the CPU.

    Raises:
        UserError: the file is missing, in another format, damaged, or holds objects other than
            tensors and plain data; these could run code and are not loaded.
    """
    if not os.path.isfile(path):  # unlike ``Path.is_file``, returns False for names too long
        raise UserError(f"there is no checkpoint file at {path}: check the path")
    if found := other_format(path):
        raise UserError(f"{path} {found}")
    try:
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load_file(path)
        with torch.serialization.safe_globals(plain_data()):
            return read_torch(path)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} needs the package {error.name}, which is not installed: "
            "pip install 'divergence-bench[export]'"
        ) from error
    except Exception as error:  # damaged bytes can raise anything
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked:
            raise UserError(
                f"{path} holds a Python object, {blocked[1]}, which could run code, and was not "
                "loaded: save the state dict alone, torch.save(model.state_dict(), path)"
            ) from error
        raise UserError(
            f"{path} is damaged or not a checkpoint of plain weights ({type(error).__name__}): "
            "download it again, or save it with torch.save(model.state_dict(), path)"
        ) from error


def other_format(path: Path) -> str | None:
    """Return what a file is and what to do if it is not a checkpoint; None if it may be one."""
    with path.open("rb") as file:
        start = file.read(512).removeprefix(b"\xef\xbb\xbf")
    for magic, text in OTHER_FORMATS.items():
        if (start.lstrip() if magic == b"<" else start).startswith(magic):
            return text
    if path.suffix == ".onnx":
        return "is an ONNX graph, not weights: save the network's state dict in PyTorch instead"
    names = names_in_zip(path)
    if "constants.pkl" in names:
        return (
            "is a TorchScript archive, which holds code: write a function that returns "
            "torch.jit.load(path) and name it as package.module:function"
        )
    if any(name.endswith(".npy") for name in names):
        return "is a NumPy archive: save its arrays as a state dict with torch.save"
    return None


def names_in_zip(path: Path) -> set[str]:
    """Return the names of the files in a zip archive; none if it is no archive or is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {Path(name).name for name in archive.namelist()}
    except Exception:  # damaged bytes can raise anything
        return set()


def plain_data() -> list[Any]:
    """Return harmless types that files hold besides weights: numbers, settings, paths.

    A type comes with the name that files use for it if that is not its own.
    """
    core = importlib.import_module("numpy._core.multiarray")
    named = [
        (getattr(core, function), f"numpy.{folder}.multiarray.{function}")
        for function in ("scalar", "_reconstruct")
        for folder in ("core", "_core")
    ]
    builtin = [(kind, f"builtins.{kind.__name__}") for kind in (dict, float, int, list, set, str)]
    # Paths of any system are read as pure paths, which never access the disk.
    paths = [
        (pure, f"{module}.{name}")
        for pure in (PurePosixPath, PureWindowsPath)
        for name in (pure.__name__, pure.__name__.removeprefix("Pure"))
        for module in ("pathlib", "pathlib._local")  # the latter in files written by Python 3.13
    ]
    dtypes = {type(numpy.dtype(code)) for code in "?bhilqBHILQefdFDSUMO"}
    types = [numpy.ndarray, numpy.dtype, argparse.Namespace, SimpleNamespace]
    types += [datetime.datetime, datetime.timedelta]
    named.append((_plain_dict, "collections.defaultdict"))
    return [*types, *dtypes, *named, *builtin, *paths, codecs.encode]


def _plain_dict(*factory: Any) -> dict[Any, Any]:
    """Stand in for ``defaultdict``, which torch cannot fill."""
    return {}


@contextmanager
def weights_only() -> Iterator[None]:
    """Make every ``torch.load`` inside the block refuse to run code, also in other libraries."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        os.environ.pop(names[0])
        os.environ.update({name: value for name, value in before.items() if value is not None})


def state_dict_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers, in hexadecimal.

    It covers names, dtypes, shapes and values; the order of definition, the device and the memory
    layout do not matter.
    """
    return tensors_sha256(module.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors; see ``state_dict_sha256``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
