"""How `compare` is shown: the same blocks as text, as Markdown and, as numbers, in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import eps_text
from harness.evaluation.analysis.paired import Comparison, SeedsComparison
from harness.evaluation.analysis.statistics import MeanDifference, PairedComparison, SeedsSummary
from harness.evaluation.analysis.stored import Compared


@dataclass(frozen=True)
class Block:
    """Lines of text and a table below them; the first column is text, the others numbers."""

    lines: tuple[str, ...]
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def blocks(compared: Compared) -> list[Block]:
    """What is shown of a comparison, in order."""
    if isinstance(compared, SeedsComparison):
        return seeds_blocks(compared)
    found = [block for comparison in compared for block in paired_blocks(comparison)]
    if len(compared) > 1:
        told = f"note: the p values are not corrected for {len(compared)} comparisons"
        found.append(Block((told,)))
    return found


def paired_blocks(comparison: Comparison) -> list[Block]:
    """Notes, the differences by metric, and the 2 x 2 table of the last metric."""
    last, paired = list(comparison.metrics.items())[-1]
    head = (
        f"A: {comparison.a}, evaluation {comparison.evaluations[0]}",
        f"B: {comparison.b}, evaluation {comparison.evaluations[1]}",
        *(f"note: {note}" for note in comparison.notes),
        protocol_text(comparison.protocol, comparison.shared),
    )
    header = ("after", "A %", "B %", "A - B points [95%]", "McNemar p", "agree %")
    rows = tuple(_paired_row(name, each) for name, each in comparison.metrics.items())
    square = (
        ("A right", str(paired.both), str(paired.only_a)),
        ("A wrong", str(paired.only_b), str(paired.neither)),
    )
    return [
        Block(head, header, rows),
        Block((f"images after {last}:",), ("", "B right", "B wrong"), square),
    ]


def seeds_blocks(comparison: SeedsComparison) -> list[Block]:
    """Notes, a row a group and metric, and each further group's difference from the first."""
    letters = [chr(ord("A") + number) for number in range(len(comparison.groups))]
    head = (
        *(
            f"{letter}: {group.name}{' and ' + ', '.join(group.runs[1:]) if group.runs[1:] else ''}"
            for letter, group in zip(letters, comparison.groups, strict=True)
        ),
        *(f"note: {note}" for note in comparison.notes),
        protocol_text(comparison.protocol, comparison.shared),
    )
    found = [
        Block(
            head,
            ("after", "group", "seeds", "mean %", "std", "mean [95%, t]"),
            tuple(
                _summary_row(name, letter, group.metrics[name])
                for name in comparison.groups[0].metrics
                for letter, group in zip(letters, comparison.groups, strict=True)
            ),
        )
    ]
    for letter, difference in zip(letters[1:], comparison.differences, strict=True):
        rows = tuple(_difference_row(name, each) for name, each in difference.items())
        if rows:
            header = ("after", f"A - {letter} points [95%, Welch]", "p")
            found.append(Block((f"A against {letter}, over seeds:",), header, rows))
    return found


def protocol_text(protocol: dict[str, Any], shared: int) -> str:
    """What the numbers must be quoted with."""
    if not protocol["attacks"]:
        return f"without attack, n = {shared} shared images"
    return (
        f"{protocol['norm']} {eps_text(protocol['eps'])}, {protocol['attack_version']}, "
        f"{protocol['precision']}, n = {shared} shared images"
    )


def _paired_row(name: str, paired: PairedComparison) -> tuple[str, ...]:
    return (
        name,
        f"{100 * (paired.both + paired.only_a) / paired.n:.2f}",
        f"{100 * (paired.both + paired.only_b) / paired.n:.2f}",
        interval(paired.difference, paired.low, paired.high, sign=True),
        f"{paired.p_value:.3g}",
        f"{100 * paired.agreement:.2f}",
    )


def _difference_row(name: str, each: MeanDifference) -> tuple[str, ...]:
    if math.isnan(each.p_value):
        return name, f"{100 * each.difference:+.2f}", "-"
    told = interval(each.difference, each.low, each.high, sign=True)
    return name, told, f"{each.p_value:.3g}"


def _summary_row(name: str, letter: str, summary: SeedsSummary) -> tuple[str, ...]:
    mean = f"{100 * summary.mean:.2f}"
    if summary.n == 1:
        return name, letter, "1", mean, "", ""
    ends = f"[{100 * summary.low:.2f}, {100 * summary.high:.2f}]"
    return name, letter, str(summary.n), mean, f"{100 * summary.std:.2f}", ends


def interval(value: float, low: float, high: float, *, sign: bool) -> str:
    """Points of accuracy with their interval."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.2f} [{100 * low:{plus}.2f}, {100 * high:{plus}.2f}]"


def print_blocks(shown: Sequence[Block], console: Console) -> None:
    """Blocks as text, with an empty line between them."""
    for number, block in enumerate(shown):
        if number:
            console.print()
        for line in block.lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if block.header:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column, title in enumerate(block.header):
                table.add_column(title, justify="right" if column else "left", no_wrap=True)
            for row in block.rows:
                table.add_row(*row)
            console.print(table)


def markdown(shown: Sequence[Block]) -> str:
    """Blocks as Markdown: lines as a list, tables as tables."""
    parts = []
    for block in shown:
        parts.append("\n".join(f"- {_escaped(line)}" for line in block.lines))
        if block.header:
            align = ["---"] + ["---:"] * (len(block.header) - 1)
            rows = [block.header, tuple(align), *block.rows]
            parts.append("\n".join("| " + " | ".join(map(_escaped, row)) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def to_json(compared: Compared) -> Any:
    """The numbers, with null for what is not known, such as a single seed's deviation."""
    found: Any = (
        asdict(compared)
        if isinstance(compared, SeedsComparison)
        else {"comparisons": [asdict(comparison) for comparison in compared]}
    )
    return _without_nan(found)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
