"""What benchmarks share: the machine, the spread of measurements, and the printed result."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """The conditions of a measurement."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def finish(result: dict[str, Any], text: str, *, met: bool, as_json: bool) -> int:
    """Print a result as JSON or text; the exit status is 1 if it misses its limit."""
    print(json.dumps(result) if as_json else text)
    return 0 if met else 1
