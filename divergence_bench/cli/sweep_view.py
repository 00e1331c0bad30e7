"""How a sweep is shown: its plan, its outcome, and the runs compared with the first row's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import fingerprint
from harness.evaluation.analysis.paired import Evaluated, compare
from harness.evaluation.analysis.statistics import PairedComparison
from harness.evaluation.analysis.stored import evaluated
from harness.experiment.sweep import Failure, Item, find_evaluation
from harness.progress import duration
from harness.registry import REPORTS
from harness.store.rundir import RunDirectory

NAMED = 3


def plan_json(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The plan, ready for JSON."""
    return [
        {
            "run_id": item.config.run_id,
            "names": list(item.names),
            "method": item.config.method,
            "recipe": item.config.recipe,
            "seed": item.config.seed,
            "state": item.state,
            "epochs": item.epochs,
            "chunks": item.chunks,
            "error": item.error,
            "seconds": item.seconds,
            "estimated_from": _source(item),
            "estimate_is_whole": item.whole,
            "left_out": list(item.left_out),
        }
        for item in items
    ]


def print_plan(items: Sequence[Item], console: Console) -> None:
    """What is done, partial and missing, and how long the rest may take."""
    table = _table("run", "seed", "state", "left", "row")
    for item in items:
        names = _names(item)
        seed = str(item.config.seed)
        table.add_row(item.config.run_id, seed, _state(item), _left(item), names)
    console.print(table)
    console.print(summary(items), highlight=False)
    paths = dict.fromkeys(path for item in items for path in item.left_out)
    if paths:
        told = ", ".join(paths)
        console.print(f"not kept at small scale: {told}", highlight=False, soft_wrap=True)


def summary(items: Sequence[Item]) -> str:
    """One line: how many of which state, and the estimate."""
    counts = {state: 0 for state in ("done", "partial", "missing")}
    for item in items:
        counts[item.state] += 1
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    left = [item for item in items if item.state != "done"]
    known = [item.seconds for item in left if item.seconds is not None]
    if not left:
        return f"{len(items)} runs: {told}"
    if not known:
        return f"{len(items)} runs: {told}; how long they take is unknown: no like run is stored"
    unknown = len(left) - sum(item.whole for item in left)
    about = f"at least {duration(sum(known))}" if unknown else f"about {duration(sum(known))}"
    rest = f", {unknown} runs being wholly or partly unknown" if unknown else ""
    return f"{len(items)} runs: {told}; {about} left{rest}"


def _state(item: Item) -> str:
    text: str = item.state
    if item.state == "partial":
        text += f" ({item.epochs} of {item.config.training.epochs} epochs, {item.chunks} chunks)"
    return text + (f", failed: {item.error}" if item.error and item.state != "done" else "")


def _left(item: Item) -> str:
    if item.state == "done":
        return ""
    if item.seconds is None:
        return "unknown"
    least = "" if item.whole else "at least "
    return least + duration(item.seconds) + ("" if item.alike else " (by other methods)")


def _names(item: Item) -> str:
    """The rows that a run is, of many the first three."""
    more = len(item.names) - NAMED
    return ", ".join(item.names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _source(item: Item) -> str | None:
    if item.seconds is None or item.state == "done":
        return None
    return "method" if item.alike else "other methods"


def outcome_json(items: Sequence[Item], failures: Sequence[Failure]) -> dict[str, Any]:
    """Plan after the sweep, failures and comparisons, ready for JSON."""
    return {
        "runs": plan_json(items),
        "failures": [vars(failure) for failure in failures],
        "tables": [REPORTS.get("run")(item.config.results, item.config.run_id).to_json()
                   for item in shown(items)],
        "compared": [
            {"a": a, "b": b, "seed": seed, **vars(paired)} for a, b, seed, paired in compared(items)
        ],
    }  # fmt: skip


def print_outcome(items: Sequence[Item], failures: Sequence[Failure], console: Console) -> None:
    """The table of each protocol, the rows compared, and what failed."""
    for item in shown(items):
        REPORTS.get("run")(item.config.results, item.config.run_id).render(console)
    found = compared(items)
    if found:
        table = _table("robust accuracy", "seed", "points [95%]", "McNemar p", "agree %")
        for a, b, seed, paired in found:
            table.add_row(
                f"{a} - {b}",
                str(seed),
                f"{100 * paired.difference:+.2f} "
                f"[{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]",
                f"{paired.p_value:.3g}",
                f"{100 * paired.agreement:.1f}",
            )
        console.print(table)
    for failure in failures:
        console.print(
            f"failed: {failure.run_id}: {failure.error}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip


def shown(items: Sequence[Item]) -> list[Item]:
    """One finished run of each protocol: its table holds the others of the sweep."""
    first: dict[tuple[str, str], Item] = {}
    for item in items:
        if item.state == "done":
            first.setdefault(protocol(item), item)
    return list(first.values())


def compared(items: Sequence[Item]) -> list[tuple[str, str, int, PairedComparison]]:
    """Each later row against the first, seed by seed, where both were evaluated alike."""
    done = [item for item in items if item.state == "done"]
    firsts = [item for item in done if item.names == done[0].names]
    by_seed = {item.config.seed: item for item in firsts}
    found = []
    for item in done:
        base = by_seed.get(item.config.seed)
        if base is None or item in firsts or protocol(item) != protocol(base):
            continue
        *_, paired = compare(_evaluated(item), _evaluated(base)).metrics.values()
        found.append((item.names[0], base.names[0], item.config.seed, paired))
    return found


def protocol(item: Item) -> tuple[str, str]:
    """What must be equal for two runs to be compared."""
    return item.config.data.name, fingerprint(item.config.evaluation.identity_payload())


def _evaluated(item: Item) -> Evaluated:
    directory = RunDirectory(item.config.results, item.config.run_id)
    evaluation = find_evaluation(directory, item.config)
    assert evaluation is not None
    return evaluated(directory, evaluation)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, overflow="fold")
    return table
