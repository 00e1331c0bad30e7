"""Model files: written for a run, and read without running code that a file may contain."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.store.files import write_torch_atomic

MODEL_FORMAT = "divergence-bench model"
State = dict[str, Tensor]
Statistics = tuple[Sequence[float], Sequence[float]]
WRAPPERS = ("module.", "model.", "_orig_mod.")


def save_model(path: Path, model: nn.Module, **facts: Any) -> None:
    """Write a model's weights, with the ``facts`` from which ``load_model_file`` builds it."""
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_torch_atomic({"format": MODEL_FORMAT, **facts, "state_dict": weights}, path)


def read_checkpoint(path: Path) -> Any:
    """Read a file on the CPU by ``torch.load(weights_only=True)``.

    Raises:
        UserError: the file is missing, a web page, damaged, or holds objects other than tensors and
            plain containers; these could run code and are not loaded.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint file at {path}: check the path")
    if looks_like_html(path):
        raise UserError(
            f"{path} is a web page, not a checkpoint (a download that needs confirmation saves "
            "one): delete it and download the file with a browser"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, if the bytes are damaged
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


def looks_like_html(path: Path) -> bool:
    """Whether the file's first non-blank character is ``<``."""
    with path.open("rb") as file:
        start = file.read(512)
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


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


def read_state(path: Path) -> State:
    """The state dict in a checkpoint file; see ``read_checkpoint`` and ``find_state``."""
    return find_state(read_checkpoint(path), str(path))


def find_state(content: Any, source: str) -> State:
    """The state dict in a checkpoint: its content, or its entry ``state_dict`` or ``model``.

    Raises:
        UserError: there is none.
    """
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = isinstance(content, Mapping) and {
        str(name): value for name, value in content.items() if isinstance(value, Tensor)
    }
    if not tensors:
        raise UserError(
            f"{source} holds no state dict, neither by itself nor under 'state_dict' or 'model': "
            "save one with torch.save(model.state_dict(), path)"
        )
    return tensors


def adapt_names(state: State, network: nn.Module) -> State:
    """Rename the state's entries to the network's own names.

    Prefixes of wrappers (data parallelism, compilation, normalisation) are removed, and a
    ``FeatureNetwork`` knows the names of published releases. Names that the network has are kept.
    """
    expected = network.state_dict().keys()
    published = getattr(network, "published_names", {})

    def adapt(name: str) -> str:
        while name not in expected and name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        for pattern, replacement in published.items():
            if name not in expected:
                name = re.sub(pattern, replacement, name)
        return name

    return {adapt(name): tensor for name, tensor in state.items()}


def load_weights(network: nn.Module, state: State, source: str) -> Statistics | None:
    """Load a state dict, which must match the network exactly once its names are adapted.

    Only counters of BatchNorm batches may be missing, as in files of early PyTorch.

    Args:
        network: the network that gets the weights.
        state: parameter and buffer names to tensors.
        source: the state's origin, for messages.

    Returns:
        Mean and standard deviation per channel if the state holds them in addition, as that of a
        ``Normalized`` network does.

    Raises:
        UserError: names or shapes differ; the message lists the first few.
    """
    state = adapt_names(state, network)
    expected = network.state_dict()
    statistics = None
    if {"mean", "std"} <= state.keys() - expected.keys():
        statistics = (state.pop("mean").flatten().tolist(), state.pop("std").flatten().tolist())
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "differently shaped": reshaped}
    differences = "; ".join(f"{kind} {some(names)}" for kind, names in kinds.items() if names)
    if differences:
        raise UserError(
            f"the weights in {source} belong to another network ({differences}): choose the "
            "architecture that they were saved from"
        )
    network.load_state_dict(state, strict=False)
    return statistics


def some(names: list[str]) -> str:
    """The first three names and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def state_dict_sha256(module: nn.Module) -> str:
    """The SHA-256 of a module's parameters and buffers, in hexadecimal.

    It covers names, dtypes, shapes and values, independently of the order of definition, the device
    and the memory layout.
    """
    return tensors_sha256(module.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of named tensors; see ``state_dict_sha256``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
