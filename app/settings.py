"""A run's configuration beside its recipe's."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from harness.errors import UserError
from harness.resolve import resolve


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under their dotted paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def settings_table(run: dict[str, Any]) -> pd.DataFrame:
    """Every setting of a run: ``setting``, ``changed``, ``run`` and ``recipe`` as JSON text.

    Which settings count as changed was recorded when the run began; the recipe's values are those
    of this release, empty where it no longer has the method or the recipe.
    """
    own = flat(run["config"])
    try:
        recipe = flat(resolve(run["method"], recipe=run["recipe"]).model_dump(mode="json"))
    except UserError:
        recipe = {}
    changed = set(run["recipe_changes"])
    return pd.DataFrame(
        {
            "setting": list(own),
            "changed": [path in changed for path in own],
            "run": [json.dumps(value) for value in own.values()],
            "recipe": [json.dumps(recipe[path]) if path in recipe else "" for path in own],
        }
    )


def differences(a: dict[str, Any], b: dict[str, Any]) -> pd.DataFrame:
    """The settings in which two configurations differ: ``setting``, ``a``, ``b`` as JSON text."""
    flat_a, flat_b = flat(a), flat(b)
    absent = object()
    paths = [
        path
        for path in dict.fromkeys([*flat_a, *flat_b])
        if flat_a.get(path, absent) != flat_b.get(path, absent)
    ]

    def text(values: dict[str, Any], path: str) -> str:
        return json.dumps(values[path]) if path in values else "(not set)"

    return pd.DataFrame(
        {
            "setting": paths,
            "a": [text(flat_a, path) for path in paths],
            "b": [text(flat_b, path) for path in paths],
        }
    )
