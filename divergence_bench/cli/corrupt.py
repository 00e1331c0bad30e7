"""The verb ``corrupt``: accuracy on CIFAR-10-C and CIFAR-100-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from typer import Argument, Option

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import percent, plain_table, print_json
from harness.data.cifar import CORRUPTIONS, SEVERITIES, open_corrupted
from harness.errors import UserError
from harness.evaluation.corrupted import CorruptionResult, evaluate_corrupted
from harness.experiment.record import recorded
from harness.models.loading import load_run_model
from harness.progress import Reporter
from harness.registry import unknown_name
from harness.store.rundir import find_run
from harness.training.build import choose_device


def corrupt(
    run: Annotated[str, Argument(help="A finished run on cifar10 or cifar100.")],
    corruptions: Annotated[str, Option(help="all, or some with commas between: fog,snow.")] = "all",
    severities: Annotated[str, Option(help="Some of 1 to 5.")] = "1,2,3,4,5",
    eval_limit: Annotated[
        int | None,
        Option(min=1, help="Use the first images of each severity; the result is partial."),
    ] = None,
    data_root: Annotated[
        Path | None,
        Option(help="Folder that holds CIFAR-10-C or CIFAR-100-C.", envvar="HARNESS_DATA"),
    ] = None,
    device: opt.Device = "auto",
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Measure a run's accuracy on the published images of CIFAR-10-C or CIFAR-100-C."""
    directory = find_run(results, run)
    model, selected = load_run_model(directory), parse_severities(severities)
    where = choose_device(device)
    names = parse_corruptions(corruptions)
    images = open_corrupted(directory.record["dataset"], data_root, names)
    reporter = Reporter(quiet=as_json)
    with directory.lock(), recorded(directory, {}, reporter), reporter.stage("corrupt") as stage:
        result = evaluate_corrupted(
            model,
            images,
            directory,
            severities=selected,
            limit=eval_limit,
            device=where,
            progress=stage.update,
        )
    if as_json:
        print_json({"protocol": result.protocol, "metrics": result.metrics()})
    else:
        show(result, directory.run_id, Console())


def show(result: CorruptionResult, run_id: str, console: Console) -> None:
    """Print accuracy in percent by corruption and severity, and the means."""
    protocol = result.protocol
    partial = ", partial" if protocol["partial"] else ""
    text = f"{run_id}: {protocol['dataset']}, n = {protocol['n']} of each severity{partial}"
    console.out(text, highlight=False)
    table = plain_table("corruption", *map(str, protocol["severities"]), "mean")
    for name, counts in result.correct.items():
        accuracies = [count / protocol["n"] for count in counts]
        table.add_row(name, *map(percent, [*accuracies, sum(accuracies) / len(accuracies)]))
    table.add_row("mean", *[""] * len(protocol["severities"]), percent(result.mean()))
    console.print(table)


def parse_corruptions(text: str) -> tuple[str, ...]:
    """The corruptions in ``"fog,snow"`` in their published order; ``all`` is every one.

    Raises:
        UserError: a name is not known.
    """
    names = {part.strip() for part in text.split(",")}
    for name in names - {"all", *CORRUPTIONS}:
        raise UserError(unknown_name("corruption", name, ["all", *CORRUPTIONS]))
    return tuple(name for name in CORRUPTIONS if name in names or "all" in names)


def parse_severities(text: str) -> tuple[int, ...]:
    """The severities in ``"1,3"``, ascending.

    Raises:
        UserError: one is not between 1 and 5.
    """
    try:
        severities = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        severities = ()
    if not severities or not set(severities) <= set(SEVERITIES):
        raise UserError(f"--severities {text} is not valid: give some of 1 to 5, such as 1,3,5")
    return severities
