"""Base classes of the configuration, radii, and helpers for nested settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from harness.errors import UserError


def identity(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes the result, and so the run's identity."""
    return Field(default, json_schema_extra={"identity": True}, **constraints)


def later_identity(default: Any, **constraints: Any) -> Any:
    """An identity field that is left out of the identity at its default.

    A field that is added to a section this way changes no existing run's id.
    """
    return Field(default, json_schema_extra={"identity": True, "later": True}, **constraints)


def cost(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes only the cost of the result."""
    return Field(default, json_schema_extra={"identity": False}, **constraints)


class Strict(BaseModel):
    """Base class of input from users or files.

    Instances are frozen; unknown fields and numbers that are not finite are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any, info: ValidationInfo) -> Any:
        # The largest values of the database's columns for seeds and for counts.
        largest = 2 ** (63 if info.field_name == "seed" else 31) - 1
        if isinstance(value, int) and value > largest:
            raise ValueError(f"at most {largest}")
        return value


class Section(Strict):
    """Base class of all sections of the configuration."""

    def identity_payload(self, *, complete: bool = False) -> dict[str, Any]:
        """The identity fields, nested, ready for JSON.

        Those declared with ``later_identity`` are left out at their defaults, unless ``complete``.
        """
        payload: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            if not isinstance(info.json_schema_extra, dict):
                raise TypeError(f"{type(self).__name__}.{name} is neither identity nor cost")
            value, kind = getattr(self, name), info.json_schema_extra
            left_out = "later" in kind and value == info.default and not complete
            if left_out or not kind["identity"]:
                continue
            payload[name] = (
                value.identity_payload(complete=complete)
                if isinstance(value, Section)
                else self.model_dump(mode="json", include={name})[name]
            )
        return payload


def parse_fraction(value: Any) -> Any:
    """Accept ``"8/255"`` wherever a number is expected."""
    try:
        if isinstance(value, str) and "/" in value:
            return float(Fraction(value.replace(" ", "")))
        if isinstance(value, int):
            float(value)  # raises if it is too large for a float
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{value!r} is not a number such as 0.5 or 8/255") from error
    return value


def split_names(names: Any) -> Any:
    """``"a, b"`` as ``("a", "b")``; a value that is not text is returned unchanged."""
    return (
        tuple(filter(None, map(str.strip, names.split(",")))) if isinstance(names, str) else names
    )


def eps_text(eps: float) -> str:
    """A radius as papers write it: a short decimal, ``8/255``, or else four digits.

    ``0.5``, ``1e-9`` and ``1`` stay as they are, although ``1`` is also 255/255.
    """
    decimal = f"{eps:.4g}".replace("e-0", "e-")
    steps = eps * 255
    is_fraction = 0.5 < steps < 2**16 and abs(steps - round(steps)) < 1e-6
    return f"{steps:.0f}/255" if is_fraction and float(decimal) != eps else decimal


Radius = Annotated[float, BeforeValidator(parse_fraction), Field(gt=0)]


def fingerprint(payload: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON of the payload."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def merge(base: dict[str, Any], over: dict[str, Any], path: str = "") -> dict[str, Any]:
    """``base`` updated with ``over``, section by section; neither is modified.

    ``params`` merges like a section. A None in ``over`` replaces a section.

    Args:
        base: settings.
        over: settings that replace them.
        path: where these settings are in the configuration, ending in a dot, for messages.

    Raises:
        UserError: ``over`` has settings of a section that is a single value in ``base``.
    """
    merged = dict(base)
    for key, value in over.items():
        old, name = merged.get(key), f"{path}{key}"
        if isinstance(old, dict) and isinstance(value, dict):
            value = merge(old, value, f"{name}.")
        elif old is not None and isinstance(value, dict) and value:
            raise UserError(
                f"{name} = {old!r} is refused together with {name}.{next(iter(value))}: it is "
                "either a single value or a section of settings"
            )
        merged[key] = value
    return merged


def assign(path: str, value: Any) -> dict[str, Any]:
    """``assign("a.b", 1)`` is ``{"a": {"b": 1}}``."""
    head, _, rest = path.partition(".")
    return {head: assign(rest, value) if rest else value}


def flat(payload: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``flat({"a": {"b": 1}})`` is ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in payload.items():
        found |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found
