"""Probe an external network before anything else is done with it.

The network runs on a few fixed images. Anything that would invalidate its evaluation is rejected
with a message, and its logits are part of its identity. Checks that need the images of an
evaluation raise flags; see ``harness.evaluation.probe``.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from harness.errors import UserError, first_line
from harness.models.checkpoint import state_dict_sha256
from harness.models.external.unwrap import abbreviated
from harness.models.normalize import Normalized
from harness.source_hash import code_sha256
from harness.store.text import counted

if TYPE_CHECKING:
    from harness.data.base import DatasetInfo

PROBE_IMAGES = 4
VARYING = "varying"


class FunctionModel(nn.Module):
    """Wrap a plain function from images to logits as a module.

    Attributes:
        function: the function.
        members: the networks that it calls, so that modes, devices and hashes reach them.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        """Wrap ``function``; ``adopt_members`` finds its networks."""
        super().__init__()
        self.function = function
        self.members = nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's output."""
        return self.function(x)

    def adopt_members(self, info: DatasetInfo, source: str) -> None:
        """Register the networks that the function calls on the probe images.

        Args:
            info: the images' dataset.
            source: the function's name in messages.

        Raises:
            UserError: the function cannot take such images.
        """
        images = probe_images(info).to(device_of(self))
        with evaluating(self), unregistered_modules(self) as found:
            _output(self, images, info, source)
        self.members.extend(found)


def probe_images(info: DatasetInfo) -> Tensor:
    """Return the fixed random images [4, K, S, S] in [0, 1], on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE_IMAGES, info.channels, info.image_size, info.image_size)
    return torch.rand(shape, generator=generator)


def check_model(model: nn.Module, info: DatasetInfo, source: str) -> list[str]:
    """Check that a model can be evaluated on images of a dataset; the model is not changed.

    Args:
        model: maps images [B, K, S, S] in [0, 1] to logits [B, C].
        info: the dataset's description.
        source: the model's name in messages.

    Returns:
        Notes on unusual behaviour that was handled, one sentence each.

    Raises:
        UserError: the model is not float32, does not return one row of C float logits per image,
            cannot take such images, or uses modules that are not registered with it.
    """
    check_float32(model, source)
    images, writes = probe_images(info).to(device_of(model)), False
    with evaluating(model), unregistered_modules(model) as found:
        for count in (3, 1):  # attacks can end with one image, whose batch `squeeze` would drop
            given = images[:count].clone()
            output = _output(model, given, info, source)
            check_logits(output, count, source)
            check_classes(output.shape[1], info, source)
            writes = writes or not torch.equal(given, images[:count])
    if found:
        names = dict.fromkeys(_described(model, stranger) for stranger in found)
        raise UserError(
            f"{source} calls modules that are not registered with it ({abbreviated(list(names))}), "
            "so eval(), to() and state_dict() do not reach them: keep them in attributes or in an "
            "nn.ModuleList"
        )
    return [f"{source} writes into the images it is given, so it gets copies"] * writes


def check_float32(model: nn.Module, source: str) -> None:
    """Raise ``UserError`` unless all parameters and floating-point buffers are float32."""
    kinds = {"parameters": model.named_parameters(), "buffers": model.named_buffers()}
    for kind, tensors in kinds.items():
        for name, tensor in tensors:
            other = tensor.is_floating_point() or tensor.is_complex() or kind == "parameters"
            if other and tensor.dtype != torch.float32:
                raise UserError(
                    f"{source} has {str(tensor.dtype).removeprefix('torch.')} {kind} ({name}), and "
                    "evaluation is in float32: call .float() on the network first"
                )


def check_logits(output: Any, count: int, source: str) -> None:
    """Raise ``UserError`` unless an output has a row of float logits for each image."""
    images = counted(count, "image")
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != count:
        kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"{source} does not return logits [B, C] (for {images} it returns {kind}): wrap it so "
            "that it does"
        )
    if not output.is_floating_point():
        kind = str(output.dtype).removeprefix("torch.")
        raise UserError(
            f"{source} returns {kind}, not float logits, and so has no gradient: return the "
            "logits before they are rounded or compared"
        )
    if bool(output.isnan().all()):
        raise UserError(f"{source} returns NaN for {images}: give finite weights")


def check_classes(num_classes: int, info: DatasetInfo, source: str) -> None:
    """Raise ``UserError`` unless a model has as many classes as the dataset."""
    if num_classes != info.num_classes:
        raise UserError(
            f"{source} has {num_classes} classes, but {info.name} has {info.num_classes}: choose "
            "the dataset that it was trained on"
        )


def _output(model: nn.Module, images: Tensor, info: DatasetInfo, source: str) -> Any:
    try:
        with torch.no_grad():
            return model(images)
    except Exception as error:  # the network can raise anything
        if len(images) == 1:
            raise UserError(
                f"{source} cannot take a single image ({first_line(error)}): "
                "wrap it so that it does"
            ) from error
        shape = "x".join(map(str, images.shape[1:]))
        raise UserError(
            f"{source} cannot take {info.name} images of {shape} "
            f"({first_line(error)}): choose the dataset that it was trained on"
        ) from error


@contextmanager
def unregistered_modules(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Collect modules with weights or dropout that are called in the block but not the model's own.

    A module is counted once together with its submodules. In the block, they are in eval mode.
    """
    known = {id(module) for module in model.modules()}
    found: list[nn.Module] = []
    modes: dict[nn.Module, bool] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        # Data parallelism marks the copies it makes for each pass as replicas.
        if id(module) in known or getattr(module, "_is_replica", False) or not _matters(module):
            return
        found.append(module)
        known.update(map(id, module.modules()))
        modes.update({each: each.training for each in module.modules()})
        module.eval()

    handle = register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()
        for module, training in modes.items():
            module.training = training


def _matters(module: nn.Module) -> bool:
    """Whether a module has weights, buffers or dropout."""
    return bool(
        next(module.parameters(), None) is not None
        or next(module.buffers(), None) is not None
        or any(isinstance(each, nn.modules.dropout._DropoutNd) for each in module.modules())
    )


def _described(model: nn.Module, stranger: nn.Module) -> str:
    """Describe a module by its class and, if one of the model's modules holds it, its place."""
    kind = type(stranger).__name__
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            place = f"{path}.{name}" if path else name
            if value is stranger:
                return f"a {kind} in {place}"
            if isinstance(value, list | tuple | set) and any(each is stranger for each in value):
                return f"a {kind} in the {type(value).__name__} {place}"
            if isinstance(value, Mapping) and any(each is stranger for each in value.values()):
                return f"a {kind} in the dict {place}"
    return f"a {kind}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode for the block, then restore each module's mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters; the CPU if it has none."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def identify(model: nn.Module, info: DatasetInfo) -> dict[str, str]:
    """Return what identifies a model: its class, weights, code, and logits of fixed images.

    Weights do not determine what a network does with them, nor code the data that it reads. The
    identity does not depend on whether the model was given as a file, a function or an object.

    Args:
        model: the network, or a ``Normalized`` one.
        info: the dataset's description.

    Returns:
        ``arch``, the name of the class or function; ``sha256`` of parameters and buffers;
        ``code_sha256``; and ``answers``, a hash of the logits of ``probe_images``, or ``varying``
        if two passes differ.
    """
    inner = model.model if isinstance(model, Normalized) else model
    return {
        "arch": class_name(inner),
        "sha256": state_dict_sha256(model),
        "code_sha256": code_sha256(_code(inner)),
        "answers": _answers(model, info),
    }


def class_name(model: nn.Module) -> str:
    """Return the qualified name of a model's class, or of its function."""
    kind = model.function if isinstance(model, FunctionModel) else type(model)
    return str(getattr(kind, "__qualname__", type(kind).__name__))


def _code(model: nn.Module) -> Sequence[Any]:
    kinds: list[Any] = [type(module) for module in model.modules()]
    functions = [model.function] if isinstance(model, FunctionModel) else []
    return list(dict.fromkeys(kinds)) + functions


def _answers(model: nn.Module, info: DatasetInfo) -> str:
    """Hash the logits of fixed random images, rounded to a thousandth of the largest.

    They are computed in float64 if the model supports it, so that rounding agrees on all machines.
    """
    images = probe_images(info).to(device_of(model))
    try:
        exact: nn.Module = copy.deepcopy(model).double()
        _logits(exact, images.double())
        found = [_rounded(_logits(exact, images.double())) for _ in range(2)]
    except Exception:  # the model cannot be copied, or only supports float32
        found = [_rounded(_logits(model, images)) for _ in range(2)]
    return found[0] if found[0] == found[1] else VARYING


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of a copy of the images in eval mode, with torch's generators seeded."""
    devices = [images.device] if images.device.type == "cuda" else []
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        logits: Tensor = model(images.clone())
    return logits.double()


def _rounded(logits: Tensor) -> str:
    plain = logits.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    scaled = logits / plain.abs().max().clamp_min(1e-30)
    # Each kind of non-finite value gets its own number.
    rounded = scaled.mul(1000).round().nan_to_num(nan=1e6, posinf=2e6, neginf=3e6)
    return hashlib.sha256(rounded.cpu().numpy().astype("<i4").tobytes()).hexdigest()[:12]
