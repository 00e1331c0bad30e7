"""The verb ``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from divergence_bench.cli import comparison_view
from harness.errors import UserError
from harness.evaluation.analysis import stored as comparison
from harness.store.files import write_bytes_atomic


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Runs, or RUN@EVALUATION; several of one recipe count as its seeds."),
    ] = None,
    method_a: Annotated[
        str | None, typer.Option(help="Instead of runs: a method, over all its seeds.")
    ] = None,
    method_b: Annotated[str | None, typer.Option(help="The method to compare it with.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The methods' runs on this data set.")] = None,
    norm: Annotated[str | None, typer.Option(help="Only evaluations of this norm.")] = None,
    eps: Annotated[str | None, typer.Option(help="Only evaluations of this radius.")] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write as well.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of run directories and database.")] = Path(
        "results"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Compare models: paired on the images they share, or by their means over seeds."""
    methods = [method for method in (method_a, method_b) if method]
    if bool(runs) == bool(methods) or len(methods) == 1:
        raise UserError("nothing to compare: give two runs or more, or --method-a and --method-b")
    found: comparison.Compared = (
        comparison.compare_runs(results, runs, norm=norm, eps=eps)
        if runs
        else comparison.compare_methods(results, methods, dataset=dataset, norm=norm, eps=eps)
    )
    shown = comparison_view.blocks(found)
    if out is not None:
        write_bytes_atomic(comparison_view.markdown(shown).encode(), out)
    if as_json:
        print(json.dumps(comparison_view.to_json(found), indent=2))
    else:
        comparison_view.print_blocks(shown, Console())
