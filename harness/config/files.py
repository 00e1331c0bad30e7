"""Settings in YAML files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError, first_line

# Files whose aliases expand to more values than this are refused.
MOST_VALUES = 100_000


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
    """A YAML loader that refuses repeated keys; PyYAML silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in first_lines:
                raise yaml.YAMLError(
                    f"{key.value} is given twice, in lines {first_lines[name]} and {line}: leave "
                    "one out"
                )
            first_lines[name] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_settings(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Args:
        path: the file, in UTF-8 or UTF-16.
        what: what the file describes, for messages, such as ``the sweep``.

    Raises:
        UserError: the file cannot be read, is not a YAML mapping, has a key twice or a value that
            does not fit its tag, or expands to far too many values.
    """
    try:
        values = yaml.load(path.read_bytes(), _UniqueKeys)
    except OSError as error:
        raise UserError(f"cannot read {what} {path} ({error}): check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Impossible dates and numbers are ValueErrors.
        message = " ".join(str(error).split())
        raise UserError(f"{what} {path} is not valid YAML: {message}") from error
    except (LookupError, AttributeError, TypeError) as error:
        # PyYAML does not check that a value fits its tag.
        raise UserError(
            f"{what} {path} has a value that does not fit its tag, such as `!!bool maybe` "
            f"({first_line(error)}): leave out the tag"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{what} {path} is not a mapping: write `name: value` lines")
    if _size(values, {}) > MOST_VALUES:
        raise UserError(f"{what} {path} expands to more than {MOST_VALUES} values: shorten it")
    return values


def _size(value: Any, sizes: dict[int, float]) -> float:
    """Number of values with all aliases expanded; infinite if a value contains itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(value)]
