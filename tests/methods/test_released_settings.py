"""Recipes have the released training settings listed in ``released_settings.yaml``."""

from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.experiment.resolve import resolve
from harness.registry import METHODS
from harness.training.averaging import first_epoch
from harness.training.schedules import inner_schedule, learning_rate

RELEASED = yaml.safe_load(Path(__file__).with_name("released_settings.yaml").read_text())


def number(value: Any) -> Any:
    """Convert fractions such as ``8/255`` to floats, including in lists."""
    if isinstance(value, list):
        return tuple(map(number, value))
    if isinstance(value, str) and "/" in value:
        numerator, denominator = value.split("/")
        return float(Fraction(numerator) / Fraction(denominator))
    return value


@pytest.mark.parametrize("released", RELEASED, ids=lambda released: released["recipe"])
def test_a_recipe_has_the_released_settings(released: dict[str, Any]) -> None:
    method, _, recipe = released["recipe"].partition("/")
    config = resolve(method, recipe=recipe)
    params = METHODS.get(method).params(**config.params)
    for path, value in released["settings"].items():
        section, _, rest = path.partition(".")
        start = params if section == "params" else getattr(config, section)
        found = reduce(getattr, rest.split("."), start)
        expected = number(value)
        assert found == (expected if isinstance(expected, str) else pytest.approx(expected)), path
    training = config.training
    for epoch, rate in released.get("rates", {}).items():
        assert learning_rate(training.optimizer, epoch, training.epochs) == pytest.approx(rate)
    for epoch, values in released.get("attack", {}).items():
        assert training.attack is not None
        found = inner_schedule(training.attack, epoch, training.epochs)
        expected = pytest.approx(number(values), rel=1e-5)
        assert (found.eps, found.step_size, found.steps) == expected
    if "averaged_from" in released:
        assert first_epoch(training.averaging, training.epochs) == released["averaged_from"]
    assert released["source"]
