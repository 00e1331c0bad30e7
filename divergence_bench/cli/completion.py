"""Names for shell completion. None of these imports torch, since the shell waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import typer

LISTINGS = ("methods", "recipes", "datasets", "models", "runs")
TABLES = tuple("123456789")
# Written out because importing the tables and formats needs pandas; a test compares them.
REPORTS = (*TABLES, "small", "field-cifar10", "field-cifar100")
REPORT_FORMATS = ("terminal", "markdown", "latex", "csv", "html", "json", "bibtex")


def _completer(names: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """Return a function that completes a name, or the last of several separated by commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def _methods() -> list[str]:
    from harness.registry import METHODS

    return METHODS.names()


def _datasets() -> list[str]:
    from harness.data import DATASETS

    return DATASETS.names()


def _models() -> list[str]:
    from harness.models import ARCHITECTURES

    return ARCHITECTURES.names()


def _budgets() -> tuple[str, ...]:
    from harness.config import ATTACK_SETS, AttackBudget

    return (*ATTACK_SETS, *(f"{name}=" for name in AttackBudget.model_fields))


def _attacks() -> tuple[str, ...]:
    from harness.config import STANDARD_ATTACKS

    return STANDARD_ATTACKS


methods = _completer(_methods)
datasets = _completer(_datasets)
models = _completer(_models)
attacks = _completer(_attacks)
budgets = _completer(_budgets)
formats = _completer(lambda: REPORT_FORMATS)
model_formats = _completer(lambda: ("safetensors", "state-dict", "torchscript", "onnx"))
norms = _completer(lambda: ("Linf", "L2"))
devices = _completer(lambda: ("auto", "cpu", "cuda"))
listings = _completer(lambda: LISTINGS)
tables = _completer(lambda: TABLES)
reports = _completer(lambda: REPORTS)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete runs of the results folder typed earlier on the line, else of the default one."""
    from harness.store.rundir import run_folders

    results = Path(ctx.params.get("results") or "results")
    found = [run.run_id for run in run_folders(results)]
    return [name for name in found if name.startswith(incomplete)]


def runs_and_methods(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete runs and methods."""
    return runs(ctx, incomplete) + methods(incomplete)
