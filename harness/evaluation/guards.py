"""Evaluation leaves no trace: the model, its mode, and the global generators are as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.errors import UserError
from harness.models.checkpoint import state_dict_sha256


@contextmanager
def untouched(model: nn.Module) -> Iterator[str]:
    """The model in eval mode with frozen parameters; afterwards as it was.

    Yields:
        The hash of its parameters and buffers.

    Raises:
        UserError: a parameter is not float32.
        RuntimeError: the block changed a parameter or a buffer.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise UserError(
                f"parameter {name} is {parameter.dtype}; evaluation is in float32: call .float() "
                "on the model first"
            )
    before = state_dict_sha256(model)
    modes = {module: module.training for module in model.modules()}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    model.requires_grad_(False)
    try:
        yield before
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter in wanted:
            parameter.requires_grad_(True)
    if state_dict_sha256(model) != before:
        raise RuntimeError(
            "the evaluation changed the model's parameters or buffers: its forward pass in eval "
            "mode writes to them, and the result is void"
        )


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """The attacks seed torch's global generators; afterwards these are as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
