"""Helpers shared by benchmarks: the machine, the spread of measurements, the printed result."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Return the conditions of a measurement."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def finish(result: dict[str, Any], text: str, *, met: bool, as_json: bool) -> int:
    """Print a result as JSON or text; return exit status 1 if it misses its limit, else 0."""
    print(json.dumps(result) if as_json else text)
    return 0 if met else 1
