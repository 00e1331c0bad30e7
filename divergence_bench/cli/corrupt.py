"""The verb ``corrupt``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.data import load_dataset
from harness.errors import UserError
from harness.evaluation.corrupted import Corrupted, evaluate_corrupted
from harness.evaluation.corruptions import SEVERITIES, chosen
from harness.experiment.record import recorded
from harness.models.loading import load_model_file
from harness.progress import Reporter
from harness.store.rundir import RunDirectory, find_run
from harness.training.build import choose_device


def corrupt(
    run: Annotated[str, typer.Argument(help="A finished run on images of 32 pixels.")],
    corruptions: Annotated[
        str, typer.Option(help="all, or some of: noise, blur, weather, digital, fog, snow ...")
    ] = "all",
    severities: Annotated[str, typer.Option(help="Some of 1 to 5.")] = "1,2,3,4,5",
    eval_limit: Annotated[
        int | None, typer.Option(min=1, help="Use so many test images; the result is partial.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the corruptions.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the images.", envvar="HARNESS_DATA")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder of run directories and database.")] = Path(
        "results"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Measure a run's accuracy on fifteen common corruptions (CIFAR-10-C's, computed here)."""
    directory = find_run(results, run)
    names, wanted = chosen(corruptions), _severities(severities)
    where = choose_device(device)
    if not directory.model_path.exists():
        raise UserError(f"run {directory.run_id} has no trained model: finish it with `run`")
    reporter = Reporter(quiet=as_json)
    images = load_dataset(directory.record["dataset"], data_root).test
    with (
        directory.lock(),
        recorded(directory, {}),
        reporter.stage("corrupt") as stage,
    ):
        found = evaluate_corrupted(
            load_model_file(directory.model_path),
            images,
            directory,
            names=names,
            severities=wanted,
            limit=eval_limit,
            seed=seed,
            device=where,
            say=stage.update,
        )
    if as_json:
        print(json.dumps({"protocol": found.protocol, "metrics": found.metrics()}, indent=2))
    else:
        show(found, directory, Console())


def show(found: Corrupted, directory: RunDirectory, console: Console) -> None:
    """Accuracy by corruption and severity, and the mean."""
    told = found.protocol
    partial = "" if found.whole else ", partial"
    console.print(
        f"{directory.run_id}: common corruptions, version {told['version']}, seed {told['seed']}, "
        f"n = {told['n']}{partial}; frost is synthetic",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("corruption", no_wrap=True)
    for title in (*map(str, told["severities"]), "mean"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, counts in found.correct.items():
        shares = [100 * count / told["n"] for count in counts]
        row = [*shares, sum(shares) / len(shares)]
        table.add_row(name, *(f"{value:.2f}" for value in row))
    table.add_row("mean", *[""] * len(told["severities"]), f"{100 * found.mean():.2f}")
    console.print(table)


def _severities(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or not set(found) <= set(SEVERITIES):
        raise UserError(f"--severities {text} is refused: give some of 1 to 5 with commas between")
    return found
