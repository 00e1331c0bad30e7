"""Evaluate, train and compare models for adversarial robustness and knowledge distillation.

    import divergence_bench as bench

    result = bench.evaluate(model, "cifar10", eps=8 / 255, name="mine")
    print(result.robust, result.clean)

Names are imported on first use, so ``divergence_bench.losses`` needs only torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from divergence_bench import losses
    from divergence_bench.api import attack, decide, evaluate, load_model, train
    from divergence_bench.hub import export
    from divergence_bench.registries import (
        datasets,
        methods,
        models,
        register_dataset,
        register_model,
    )
    from divergence_bench.result import Accuracy, Result, compare, results, verdicts

# Module to the public names it defines.
_NAMES = {
    "api": ("attack", "decide", "evaluate", "load_model", "train"),
    "hub": ("export",),
    "registries": ("datasets", "methods", "models", "register_dataset", "register_model"),
    "result": ("Accuracy", "Result", "compare", "results", "verdicts"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Accuracy",
    "Result",
    "attack",
    "compare",
    "datasets",
    "decide",
    "evaluate",
    "export",
    "load_model",
    "losses",
    "methods",
    "models",
    "register_dataset",
    "register_model",
    "results",
    "train",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "losses":
        return importlib.import_module("divergence_bench.losses")
    if name in _MODULES:
        return getattr(importlib.import_module(f"divergence_bench.{_MODULES[name]}"), name)
    if name == "__version__":
        return importlib.import_module("harness").__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
