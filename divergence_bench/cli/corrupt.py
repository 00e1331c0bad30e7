"""The command ``corrupt``: accuracy on CIFAR-10-C and CIFAR-100-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import (
    new_console,
    percent,
    plain_table,
    print_json,
    stdout_for_results,
)
from harness.errors import UserError
from harness.progress import Reporter
from harness.registry import unknown_name
from harness.store.rundir import find_run

if TYPE_CHECKING:
    from harness.evaluation.corrupted import CorruptionResult


def corrupt(
    run: opt.Run,
    corruptions: Annotated[
        str,
        opt.value("NAMES", "all, or a comma-separated list such as fog,snow.", opt.ATTACK),
    ] = "all",
    severities: Annotated[str, opt.value("LIST", "Levels from 1 to 5.", opt.ATTACK)] = "1,2,3,4,5",
    eval_limit: Annotated[
        int | None,
        opt.value(
            "N",
            "Use the first N images of each severity; marks the result partial.",
            opt.ATTACK,
            min=1,
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        opt.value(
            "DIR", "Folder that holds CIFAR-10-C or CIFAR-100-C.", opt.DATA, envvar="HARNESS_DATA"
        ),
    ] = None,
    results: opt.StoredResults = opt.RESULTS,
    device: opt.Device = "auto",
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Measure a run's accuracy on the published images of CIFAR-10-C or CIFAR-100-C.

    RUN is a finished run on cifar10 or cifar100.
    """
    from harness.data.cifar import open_corrupted
    from harness.evaluation.corrupted import evaluate_corrupted
    from harness.experiment.record import check_registered, recorded
    from harness.models.loading import load_run_model
    from harness.training.build import choose_device

    directory = find_run(results, run)
    check_registered(directory)
    model, selected = load_run_model(directory), parse_severities(severities)
    where = choose_device(device)
    names = parse_corruptions(corruptions)
    images = open_corrupted(directory.record["dataset"], data_root, names)
    reporter = Reporter(quiet=quiet or as_json)
    with (
        stdout_for_results(),
        directory.lock(),
        recorded(directory, {}, reporter, further=True),
        reporter.stage("corrupt") as stage,
    ):
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
        show(result, directory.run_id, new_console())


def show(result: CorruptionResult, run_id: str, console: Console) -> None:
    """Print accuracy in percent by corruption and severity, and the means."""
    protocol = result.protocol
    partial = ", partial" if protocol["partial"] else ""
    text = f"{run_id}: {protocol['dataset']}, n = {protocol['n']:,} of each severity{partial}"
    console.out(text, highlight=False)
    table = plain_table("corruption", *map(str, protocol["severities"]), "mean")
    for name, counts in result.correct.items():
        accuracies = [count / protocol["n"] for count in counts]
        table.add_row(name, *map(percent, [*accuracies, sum(accuracies) / len(accuracies)]))
    table.add_row("mean", *[""] * len(protocol["severities"]), percent(result.mean()))
    console.print(table)


def parse_corruptions(text: str) -> tuple[str, ...]:
    """Parse ``"fog,snow"`` into corruptions in their published order; ``all`` is every one.

    Raises:
        UserError: a name is unknown.
    """
    from harness.data.cifar import CORRUPTIONS

    names = {part.strip() for part in text.split(",")}
    for name in names - {"all", *CORRUPTIONS}:
        raise UserError(unknown_name("corruption", name, ["all", *CORRUPTIONS]))
    return tuple(name for name in CORRUPTIONS if name in names or "all" in names)


def parse_severities(text: str) -> tuple[int, ...]:
    """Parse ``"1,3"`` into severities in ascending order.

    Raises:
        UserError: one is not between 1 and 5.
    """
    from harness.data.cifar import SEVERITIES

    try:
        severities = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        severities = ()
    if not severities or not set(severities) <= set(SEVERITIES):
        raise UserError(f"--severities {text} is not valid: give some of 1 to 5, such as 1,3,5")
    return severities
