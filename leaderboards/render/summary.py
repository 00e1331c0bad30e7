"""How the table of a run looks: cells, columns that fit the terminal, and the legend."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leaderboards.ranking import PARTIAL, Entry, Score
from leaderboards.table import DISPUTED, FLAGGED, INTERVAL, MEANINGS, OF_MEANS

RANK, METHOD, ARCH, SEEDS, N, STEP, BADGE = (
    "#",
    "Method",
    "Architecture",
    "Seeds",
    "n",
    "s/iter",
    "Src",
)
TITLES = {
    "clean": "Clean",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
    "aa": "AA",
}
STAGES = ("APGD-CE", "APGD-T", "Square", "Clean")
METHOD_WIDTH = 16
GAP = 2
OWN_MARK = "> "
PLUS_MINUS = "±"


def metric_title(metric: str) -> str:
    """A metric as papers write it."""
    return TITLES.get(metric, metric)


def percent(score: Score | None, *, interval: bool = False, flagged: bool = False) -> str:
    """``31.45``, ``31.45 [30.5, 32.4]`` or, over seeds, ``31.45 ± 0.12``.

    ``!`` stands behind a disputed value and ``?`` behind a flagged one.
    """
    if score is None:
        return ""
    text = f"{100 * score.value:.2f}{DISPUTED if score.disputed else ''}"
    text += FLAGGED if flagged else ""
    if score.std is not None:
        return f"{text} {PLUS_MINUS} {100 * score.std:.2f}"
    if interval and score.low is not None and score.high is not None:
        text += f" [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    return text


def table_of(entries: Sequence[Entry], stages: Sequence[str], metric: str) -> pd.DataFrame:
    """Cells as text. Columns: rank, method, network, seeds, stages, metric, n, s/iter, source."""
    rows = []
    for entry in entries:
        step = entry.scores.get("sec_per_iter")
        rows.append(
            {
                RANK: entry.rank,
                METHOD: entry.method,
                ARCH: entry.arch,
                SEEDS: str(entry.seeds or ""),
                **{metric_title(stage): percent(entry.scores.get(stage)) for stage in stages},
                ranking_title(metric, entries): percent(
                    entry.scores.get(metric), interval=True, flagged=bool(entry.flags)
                ),
                N: str(entry.n or ""),
                STEP: f"{step.value:.3g}" if step else "",
                BADGE: entry.badge + entry.source.replace("Table ", " T"),
            }
        )
    return pd.DataFrame(rows)


def ranking_title(metric: str, entries: Sequence[Entry] = ()) -> str:
    """The head of the column that ranks; what stands beside deviations is told by the legend."""
    if _over_seeds(entries, metric):
        return metric_title(metric)
    return f"{metric_title(metric)} [95%]"


def _over_seeds(entries: Sequence[Entry], metric: str) -> bool:
    """Whether a deviation stands beside one of the numbers that rank."""
    scores = (entry.scores.get(metric) for entry in entries)
    return any(score is not None and score.std is not None for score in scores)


def print_entries(
    facts: Sequence[str],
    entries: Sequence[Entry],
    cells: pd.DataFrame,
    metric: str,
    console: Console,
) -> None:
    """Print the table with as many columns as the console's width holds, and its legend.

    Args:
        facts: what all rows share, for the title; the data set is the first.
        entries: the rows.
        cells: their cells, by ``table_of``.
        metric: the metric that ranks.
        console: where to print.
    """
    # Where output can only be ASCII, printing the sign would fail.
    sign = PLUS_MINUS if console.encoding.startswith("utf") else "+-"
    cells = cells.map(lambda cell: cell.replace(PLUS_MINUS, sign))
    columns = list(cells.columns)
    one_arch = len({entry.arch.lower() for entry in entries}) == 1
    left_out = []
    # The title says how many images; seeds are of interest where there is more than one.
    needless = [N] + [SEEDS] * all((entry.seeds or 0) < 2 for entry in entries)
    ranking = ranking_title(metric, entries)
    for column in (*needless, "FAB-T", SEEDS, *[ARCH] * one_arch, STEP, *STAGES, ARCH, BADGE, RANK):
        if _width(cells, columns) > console.width and column in columns and column != ranking:
            columns.remove(column)
            left_out.append(column)
    if one_arch and ARCH in left_out:
        needless.append(ARCH)
        facts = [facts[0], entries[0].arch, *facts[1:]]
    console.print(Text(" | ".join(facts), style="bold"))
    console.print(_table(entries, cells[columns], metric, console.width))
    for line in [*_legend(entries, metric), *_omission([c for c in left_out if c not in needless])]:
        console.print(Text(line.replace(PLUS_MINUS, sign), style="dim"))


def _width(cells: pd.DataFrame, columns: Sequence[str]) -> int:
    """Columns of text that the table needs, its methods' names folded at ``METHOD_WIDTH``."""
    return sum(_column_width(cells, column) + GAP for column in columns) - GAP


def _column_width(cells: pd.DataFrame, column: str) -> int:
    width = max(len(column), *(len(cell) for cell in cells[column]))
    return min(width + len(OWN_MARK), METHOD_WIDTH) if column == METHOD else width


def _table(entries: Sequence[Entry], cells: pd.DataFrame, metric: str, width: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
    )
    spare = max(width - _width(cells, list(cells.columns)), 0)
    for column in cells.columns:
        if column == METHOD:
            longest = max(len(cell) for cell in cells[METHOD]) + len(OWN_MARK)
            fits = min(longest, _column_width(cells, column) + spare)
            table.add_column(column, width=fits, overflow="fold")
        else:
            textual = column in (RANK, ARCH, BADGE)
            table.add_column(column, no_wrap=True, justify="left" if textual else "right")
    for entry, row in zip(entries, cells.to_dict("records"), strict=True):
        row[METHOD] = (OWN_MARK if entry.own else "") + row[METHOD]
        bold = (METHOD, ranking_title(metric, entries)) if entry.rank == "1" else ()
        table.add_row(*(Text(row[name], style="bold" if name in bold else "") for name in row))
    return table


def _legend(entries: Sequence[Entry], metric: str) -> list[str]:
    shown = {entry.badge for entry in entries}
    if any(score.disputed for entry in entries for score in entry.scores.values()):
        shown.add(DISPUTED)
    if any(entry.flags for entry in entries):
        shown.add(FLAGGED)
    lines = [f"{badge}  {meaning}" for badge, meaning in MEANINGS.items() if badge in shown]
    marks = [f"{OWN_MARK} this run"]
    if any(entry.rank == "1=" for entry in entries):
        marks.append("1=  95% interval overlaps the leader's")
    if any(entry.rank == PARTIAL for entry in entries):
        marks.append("partial  on a part of the data, not ranked")
    if any((entry.seeds or 0) > 1 for entry in entries):
        marks.append(f"a {PLUS_MINUS} b  mean and deviation over seeds")
    intervals = []
    if any(_has_interval(entry.scores.get(metric)) for entry in entries):
        intervals.append(f"[a, b]  {INTERVAL}")
    means = any(_is_mean(entry.scores.get(metric)) for entry in entries)
    if means and any(entry.rank == "1=" for entry in entries):
        intervals.append(f"1=  {OF_MEANS}")
    return [*_doubts(entries), *lines, "; ".join(marks), *intervals]


def _is_mean(score: Score | None) -> bool:
    return score is not None and score.mean_low is not None


def _has_interval(score: Score | None) -> bool:
    return score is not None and score.low is not None and score.std is None


def _doubts(entries: Sequence[Entry]) -> list[str]:
    """One line a flag of the run that the table is about, and one a row of all others."""
    lines = []
    for entry in entries:
        names = ", ".join(flag.partition(":")[0] for flag in entry.flags)
        if entry.own:
            lines += [f"{FLAGGED}  {flag}" for flag in entry.flags]
        elif names:
            lines.append(f"{FLAGGED}  {entry.method}: {names}")
    return lines


def _omission(columns: Sequence[str]) -> list[str]:
    return [f"left out at this width: {', '.join(columns)}"] if columns else []
