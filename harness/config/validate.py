"""Validate the user's values, with one sentence on what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import UserError
from harness.registry import nearest, suggestion


def validated(model: type[Any], values: Any, prefix: str = "") -> Any:
    """The user's values as an instance of ``model``.

    Raises:
        UserError: a value is invalid, or a name is unknown; the message lists the nearest names.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(_unknown_field(model, prefix, path)) from error
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "literal_error":
            choices = re.findall("'(.*?)'", first["ctx"]["expected"])
            if near := nearest(str(first["input"]), choices):
                message = f"did you mean {' or '.join(near)}? ({message})"
        if first["type"] == "model_type":
            message = "a section of settings is expected"
        # If a whole section is refused, the message says which of its fields conflict.
        value = "" if isinstance(first["input"], Mapping) else f" = {first['input']!r}"
        raise UserError(
            f"{(prefix + path).strip('.')}{value} is refused: {message[0].lower()}{message[1:]}"
        ) from error


def _unknown_field(model: type[BaseModel], prefix: str, path: str) -> str:
    known = [prefix + name for name in _field_paths(model)]
    last = path.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last]
    return f"unknown setting {prefix + path!r}: {suggestion(prefix + path, same or known)}"


def _field_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, info in model.model_fields.items():
        kinds = (info.annotation, *getattr(info.annotation, "__args__", ()))
        sections = [
            kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        paths += _field_paths(sections[0], f"{prefix}{name}.") if sections else [prefix + name]
    return paths
