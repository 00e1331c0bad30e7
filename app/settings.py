"""A run's configuration beside its recipe's."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from harness.config import flat
from harness.errors import UserError
from harness.experiment.resolve import resolve


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
