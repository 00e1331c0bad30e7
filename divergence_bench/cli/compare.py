"""The command ``compare``, which prints text or Markdown from the same blocks, or JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from typer import Argument

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import (
    interval,
    markdown_table,
    markdown_text,
    new_console,
    percent,
    plain_table,
    print_json,
)
from harness.config import eps_text
from harness.errors import UserError
from harness.evaluation.analysis.comparable import is_sequential
from harness.store.files import without_nan, write_bytes_atomic

if TYPE_CHECKING:
    from harness.evaluation.analysis.paired import Comparison, SeedsComparison
    from harness.evaluation.analysis.statistics import (
        MeanDifference,
        PairedComparison,
        SeedsSummary,
    )
    from harness.evaluation.analysis.stored import Compared


def compare(
    runs: Annotated[
        list[str] | None,
        Argument(
            metavar="RUN",
            help="Runs, or RUN@EVALUATION; of three or more, seeds of one run are averaged.",
            autocompletion=completion.runs,
        ),
    ] = None,
    method_a: Annotated[
        str | None,
        opt.value(
            "NAME",
            "Instead of runs: a method, with all its seeds.",
            opt.SELECTION,
            complete=completion.methods,
        ),
    ] = None,
    method_b: Annotated[
        str | None,
        opt.value(
            "NAME", "The method to compare it with.", opt.SELECTION, complete=completion.methods
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        opt.value(
            "NAME",
            "Only the methods' runs on this dataset.",
            opt.SELECTION,
            complete=completion.datasets,
        ),
    ] = None,
    norm: Annotated[
        str | None,
        opt.value(
            "NAME", "Only evaluations of this norm.", opt.SELECTION, complete=completion.norms
        ),
    ] = None,
    eps: Annotated[
        str | None,
        opt.value("RADIUS", "Only evaluations of this radius.", opt.SELECTION),
    ] = None,
    out: Annotated[
        Path | None,
        opt.value("FILE", "Also write Markdown to this file.", opt.STORAGE),
    ] = None,
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Compare models image by image, or by their means over seeds."""
    from harness.evaluation.analysis import stored

    methods = [method for method in (method_a, method_b) if method]
    if bool(runs) == bool(methods) or len(methods) == 1:
        raise UserError("nothing to compare: give two runs or more, or --method-a and --method-b")
    if runs and dataset is not None:
        raise UserError("--dataset has no effect on named runs: leave it out")
    compared: Compared = (
        stored.compare_runs(results, runs, norm=norm, eps=eps)
        if runs
        else stored.compare_methods(results, methods, dataset=dataset, norm=norm, eps=eps)
    )
    blocks = blocks_of(compared)
    if out is not None:
        write_bytes_atomic(markdown(blocks).encode(), out)
    if as_json:
        print_json(to_json(compared))
    else:
        print_blocks(blocks, new_console())


@dataclass(frozen=True)
class Block:
    """Lines of text and a table below them; the first column is text, the others numbers."""

    lines: tuple[str, ...]
    titles: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def blocks_of(compared: Compared) -> list[Block]:
    """Return the blocks to print for a comparison, in order."""
    from harness.evaluation.analysis.paired import SeedsComparison

    if isinstance(compared, SeedsComparison):
        return seeds_blocks(compared)
    blocks = [block for comparison in compared for block in paired_blocks(comparison)]
    if len(compared) > 1:
        note = f"note: the p values are not corrected for {len(compared)} comparisons"
        blocks.append(Block((note,)))
    return blocks


def paired_blocks(comparison: Comparison) -> list[Block]:
    """Return notes, the differences by metric, and the 2 x 2 table of the last metric."""
    last, paired = list(comparison.metrics.items())[-1]
    head = (
        f"A: {comparison.a}, evaluation {comparison.evaluations[0]}",
        f"B: {comparison.b}, evaluation {comparison.evaluations[1]}",
        *(f"note: {note}" for note in comparison.notes),
        protocol_text(comparison.protocol, comparison.shared),
    )
    sequential = is_sequential(comparison.protocol["attack_version"])
    test = "p at any n" if sequential else "McNemar p"
    titles = ("after", "A %", "B %", "A - B points [95%]", test, "agree %")
    rows = tuple(_paired_row(name, each) for name, each in comparison.metrics.items())
    counts = (
        ("A right", str(paired.both), str(paired.only_a)),
        ("A wrong", str(paired.only_b), str(paired.neither)),
    )
    return [
        Block(head, titles, rows),
        Block((f"images after {last}:",), ("", "B right", "B wrong"), counts),
    ]


def seeds_blocks(comparison: SeedsComparison) -> list[Block]:
    """Return notes, rows by group and metric, and differences of the first from other groups."""
    groups = {chr(ord("A") + number): group for number, group in enumerate(comparison.groups)}
    head = (
        *(
            f"{letter}: {' and '.join([group.name, *filter(None, [', '.join(group.runs[1:])])])}"
            for letter, group in groups.items()
        ),
        *(f"note: {note}" for note in comparison.notes),
        protocol_text(comparison.protocol, comparison.shared),
    )
    means = tuple(
        _summary_row(name, letter, group.metrics[name])
        for name in comparison.groups[0].metrics
        for letter, group in groups.items()
    )
    blocks = [Block(head, ("after", "group", "seeds", "mean %", "std", "mean [95%, t]"), means)]
    for letter, difference in zip(list(groups)[1:], comparison.differences, strict=True):
        rows = tuple(_difference_row(name, each) for name, each in difference.items())
        if rows:
            titles = ("after", f"A - {letter} points [95%, Welch]", "p")
            blocks.append(Block((f"A against {letter}, over seeds:",), titles, rows))
    return blocks


def protocol_text(protocol: dict[str, Any], shared: int) -> str:
    """Return the protocol that the numbers must be quoted with."""
    attack = (
        f"{protocol['norm']} {eps_text(protocol['eps'])}, {protocol['attack_version']}, "
        f"{protocol['precision']}"
        if protocol["attacks"]
        else "clean only"
    )
    return f"{attack}, n = {shared:,} shared images"


def _paired_row(name: str, paired: PairedComparison) -> tuple[str, ...]:
    return (
        name,
        percent((paired.both + paired.only_a) / paired.n),
        percent((paired.both + paired.only_b) / paired.n),
        interval(paired.difference, paired.low, paired.high, sign=True),
        f"{paired.p_value:.3g}",
        percent(paired.agreement),
    )


def _difference_row(name: str, each: MeanDifference) -> tuple[str, ...]:
    if math.isnan(each.p_value):
        return name, f"{100 * each.difference:+.2f}", "-"
    return name, interval(each.difference, each.low, each.high, sign=True), f"{each.p_value:.3g}"


def _summary_row(name: str, letter: str, summary: SeedsSummary) -> tuple[str, ...]:
    mean = percent(summary.mean)
    if summary.n == 1:
        return name, letter, "1", mean, "", ""
    ends = f"[{percent(summary.low)}, {percent(summary.high)}]"
    return name, letter, str(summary.n), mean, percent(summary.std), ends


def print_blocks(blocks: Sequence[Block], console: Console) -> None:
    """Print blocks as text, with an empty line between them."""
    for number, block in enumerate(blocks):
        if number:
            console.print()
        for line in block.lines:
            console.out(line, highlight=False)
        if block.titles:
            table = plain_table(*block.titles)
            for row in block.rows:
                table.add_row(*row)
            console.print(table)


def markdown(blocks: Sequence[Block]) -> str:
    """Return blocks as Markdown: lines as a list, tables as tables."""
    parts = []
    for block in blocks:
        parts.append("\n".join(f"- {markdown_text(line)}" for line in block.lines))
        if block.titles:
            parts.append(markdown_table(block.titles, block.rows))
    return "\n\n".join(parts) + "\n"


def to_json(compared: Compared) -> Any:
    """Return the numbers, with null for unknown ones such as a single seed's deviation."""
    from harness.evaluation.analysis.paired import SeedsComparison

    return without_nan(
        asdict(compared)
        if isinstance(compared, SeedsComparison)
        else {"comparisons": [asdict(comparison) for comparison in compared]}
    )
