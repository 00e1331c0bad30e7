"""Settings in YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a repeated key is an error: PyYAML keeps the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in first_lines:
                raise yaml.YAMLError(
                    f"{key.value} is there twice, in lines {first_lines[name]} and {line}: leave "
                    "one out"
                )
            first_lines[name] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_settings(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: the file, in UTF-8 or UTF-16.
        what: what it describes, for messages, such as ``the sweep``.

    Raises:
        UserError: the file cannot be read, is no YAML mapping, or has a key twice.
    """
    try:
        values = yaml.load(path.read_bytes(), _UniqueKeys)
    except OSError as error:
        raise UserError(f"cannot read {what} {path} ({error}): check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Dates and numbers that do not exist are ValueErrors.
        message = " ".join(str(error).split())
        raise UserError(f"{what} {path} is not valid YAML: {message}") from error
    if not isinstance(values, dict):
        raise UserError(f"{what} {path} is not a mapping: write `name: value` lines")
    return values
