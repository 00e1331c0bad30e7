"""How `show` prints evaluations: what each stage did, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import eps_text
from harness.evaluation.analysis.curves import (
    Point,
    curve_flags,
    curve_of,
    curves,
    with_curve_flags,
)
from harness.progress import duration
from harness.store.database import Database
from harness.store.rundir import RunDirectory

Record = Mapping[str, Any]
COUNTS = {"attacked": "attacked", "broken": "broken", "forward": "fwd", "backward": "bwd"}


def print_evaluations(run: RunDirectory, console: Console) -> None:
    """The stages of the newest finished evaluation, and one line for each other one."""
    computed = curve_flags(Database(run.results), [run.run_id])
    finished = sorted(
        (
            with_curve_flags(e.record, computed)
            for e in run.evaluations()
            if e.record["status"] == "success"
        ),
        key=lambda record: (str(record["finished_at"]), str(record["evaluation_id"])),
    )
    attacked = [record for record in finished if record.get("stages")]
    for record in attacked[-1:]:
        console.print(f"\n{heading(record)}", highlight=False, soft_wrap=True)
        console.print(waterfall(record))
    for record in finished:
        if record not in attacked[-1:]:
            console.print(heading(record), highlight=False, soft_wrap=True)
    for group in curves(run):
        print_curve(curve_of(run, group[0].evaluation_id), group[0].record, console)


def print_curve(points: Sequence[Point], record: Record, console: Console) -> None:
    """Accuracy over the radius; nothing where there is no curve."""
    if not points:
        return
    told = record["protocol"]
    title = f"curve: {told['norm']}, {told['attack_version']}, n = {told['n']}"
    console.print(f"\n{title}", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("eps", *points[0].stages, "left [95%]"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("flags", overflow="fold")
    for point in points:
        left = f"{100 * point.robust:.2f} [{100 * point.low:.1f}, {100 * point.high:.1f}]"
        stages = [f"{100 * value:.2f}" for value in point.stages.values()]
        table.add_row(eps_text(point.eps), *stages, left, ", ".join(point.flags))
    console.print(table)


def heading(record: Record) -> str:
    """An evaluation in one line: its id, protocol, images, result and flags."""
    told, metrics = record["protocol"], record["metrics"]
    threat = f"{told['norm']} {eps_text(told['eps'])}" if told["attacks"] else "without attack"
    flags = ", ".join(flag["name"] for flag in record.get("flags") or [])
    return (
        f"evaluation {record['evaluation_id']}: {threat}, n = {told['n']}, "
        f"{100 * metrics['robust']['value']:.2f}% left"
        f"{f', flags: {flags}' if flags else ''}, {duration(record.get('wall_s') or 0)}"
    )


def waterfall(record: Record) -> Table:
    """What each stage was given, what it broke and left, its passes and its seconds."""
    n = record["protocol"]["n"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    for title in (*COUNTS.values(), "seconds", "left"):
        table.add_column(title, justify="right", no_wrap=True)
    clean = record["metrics"]["clean"]["value"]
    table.add_row("clean", str(n), str(round(n * (1 - clean))), "", "", "", f"{100 * clean:.2f}%")
    for name in record["protocol"]["attacks"]:
        facts = record["stages"].get(name)
        if facts is None:
            table.add_row(name, "0")
            continue
        left = record["metrics"][name]["value"]
        counts = [str(int(facts[count])) for count in COUNTS]
        table.add_row(name, *counts, f"{facts['seconds']:.1f}", f"{100 * left:.2f}%")
    return table
