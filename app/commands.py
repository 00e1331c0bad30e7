"""Commands shown on a run's page: to repeat the run, and to save an evaluation's images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config import EvalConfig
from harness.data import dataset_info
from harness.errors import UserError
from harness.store.rundir import RunDirectory


def repeat(run: Mapping[str, Any]) -> str:
    """The command that repeats the run, as it was typed if that is known."""
    typed = run["config_passed"].get("argv")
    if typed:
        return f"python -m harness {shlex.join(map(str, typed))}"
    if run["kind"] == "loaded":
        return _of_source(run)
    method, recipe = shlex.quote(str(run["method"])), shlex.quote(str(run["recipe"]))
    changed = "".join(
        f" --set {shlex.quote(f'{path}={json.dumps(value)}')}"
        for path, value in run["recipe_changes"].items()
    )
    seed = f" --seed {int(run['seed'])}" if run["seed"] else ""
    return f"python -m harness run --method {method} --recipe {recipe}{changed}{seed}"


def keep_images(run: Mapping[str, Any], evaluation: Mapping[str, Any], results: Path) -> str | None:
    """The command that recreates an evaluation's adversarial images and saves them.

    None if the weights are not on this machine, for example for an imported run.
    """
    if run["kind"] == "loaded":
        if not run["source"].get("source"):
            return None
        start = _of_source(run)
    elif RunDirectory(results, run["run_id"]).model_path.exists():
        start = f"python -m harness evaluate {shlex.quote(run['run_id'])}"
    else:
        return None
    settings = "".join(
        f" --set {shlex.quote(f'evaluation.{name}={_typed(value)}')}"
        for name, value in _departures(run, json.loads(evaluation["protocol"])).items()
    )
    return f"{start}{settings} --save-adversarial uint8"


def _of_source(run: Mapping[str, Any]) -> str:
    source = shlex.quote(str(run["source"].get("source", run["run_id"])))
    return f"python -m harness evaluate {source} --dataset {shlex.quote(str(run['dataset']))}"


def _departures(run: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in which a protocol differs from the command's defaults."""
    own = run["config"].get("evaluation") or {"eps": _customary_eps(run["dataset"])}
    default = EvalConfig.model_validate(own).identity_payload()
    return {
        name: protocol[name]
        for name in default
        if name in protocol and _typed(protocol[name]) != _typed(default[name])
    }


def _customary_eps(dataset: str) -> float:
    """The command's default radius; 0 if unknown, so that the radius is always given."""
    try:
        return dataset_info(dataset).default_eps
    except UserError:  # a folder that this process has not opened, or images from Python
        return 0.0


def _typed(value: Any) -> str:
    """Format a value for ``--set``."""
    return ",".join(value) if isinstance(value, list | tuple) else json.dumps(value)
