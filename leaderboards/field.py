"""Field tables: the paper's rows and ours ranked among RobustBench's published entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leaderboards.printed import percent_interval
from leaderboards.published import Published
from leaderboards.ranking import rank_rows
from leaderboards.spec import UNKNOWN_DATA, TableSpec
from leaderboards.table import (
    OURS_ROW,
    PRINTED,
    PRINTED_ROW,
    PUBLISHED_ROW,
    REPRODUCED,
    ROBUSTBENCH,
    Cell,
    Column,
    Number,
    Row,
    Table,
    with_keys,
)

RANKED_BY = "best-known"
# Columns of every table whose models are on a RobustBench board.
COMMON = ("aa", "clean")
# RobustBench counts only additional real images as extra data.
ALONE, EXTRA = "No extra real images (generated ones allowed)", "Extra real images"
UNKNOWN = "Training data unknown"
UNRELIABLE = "RobustBench calls AutoAttack's number potentially unreliable"
# Prefix of the keys of the paper's own models on the boards.
OWN_ENTRIES = "Cui2023Decoupled"


def field_table(spec: TableSpec, table: Table, entries: Sequence[Published]) -> Table:
    """Return the board of a table's threat model with the table's rows ranked among its entries.

    Rows are ranked by the lowest known accuracy under attack, as on RobustBench: an external attack
    counts where it leaves a lower accuracy than AutoAttack.

    Args:
        spec: declaration of a table whose models are on a board.
        table: the same table with its numbers.
        entries: the board's entries.
    """
    rows = [_published(entry, spec) for entry in entries]
    for row in table.rows:
        if row.kind in (PRINTED_ROW, OURS_ROW) and row.is_papers_attack and not row.partial:
            rows += _sides(row)
    ranked: list[Row] = []
    for group in (ALONE, EXTRA, UNKNOWN):
        ranked += rank_rows([row for row in rows if row.group == group], RANKED_BY)
    labels = ("#", "Method", "Architecture", "Training data")
    return Table(
        title=f"{spec.title}: the field",
        slug=f"field-{_dataset(spec)}",
        labels=labels,
        method_label=1,
        columns=(
            Column(
                RANKED_BY,
                ("Best known",),
                "aa",
                "Lowest known accuracy under attack, percent: under AutoAttack, or under a "
                "stronger external attack. RobustBench ranks by it.",
            ),
            *(Column(c.key, c.heads, c.metric, c.help) for c in reversed(spec.columns)),
        ),
        rows=tuple(replace(row, labels=(row.rank, *row.labels)) for row in with_keys(ranked)),
        caption=f"RobustBench's {len(entries)} published entries, with the paper's rows and ours.",
        protocol=table.protocol,
        ranked_by=RANKED_BY,
        subject=spec.subject,
        has_ours=table.has_ours,
        remarks=(
            "The rank is the range that the 95% intervals allow within a section.",
            "RobustBench does not count generated images as extra data, and lists entries at a "
            "radius of 0.031 with those at 8/255.",
            "A model that the paper prints and RobustBench lists has a row for each source.",
        ),
    )


def _published(entry: Published, spec: TableSpec) -> Row:
    flags = [UNRELIABLE] * entry.unreliable
    if entry.best_known < entry.aa:
        flags.append(f"an external attack leaves {entry.best_known:.2f}, which sets its rank")
    notes = [entry.citation]
    if entry.external is not None:
        notes.append(f"The best external attack leaves {entry.external:.2f}.")
    if entry.eps not in ("8/255", "4/255"):
        notes.append(f"Attacked at a radius of {entry.eps}.")
    values = {RANKED_BY: entry.best_known, "aa": entry.aa, "clean": entry.clean}
    cells = {
        key: Cell(printed=_number(value, spec.images, tuple(flags) if key != "clean" else ()))
        for key, value in values.items()
    }
    own = spec.subject[0] if entry.key.startswith(OWN_ENTRIES) and spec.subject else ""
    data = "extra real images" if entry.extra_data else "no extra images"
    return Row(
        PUBLISHED_ROW,
        (entry.key, entry.arch, data),
        EXTRA if entry.extra_data else ALONE,
        cells,
        facts=_facts(_dataset(spec), entry.arch, data, own),
        notes=tuple(filter(None, (*notes, entry.note, entry.link))),
    )


def _number(value: float, n: int, flags: tuple[str, ...]) -> Number:
    low, high = percent_interval(value, n)
    return Number(value, ROBUSTBENCH, low=low, high=high, n=n, flags=flags)


def _facts(dataset: str, arch: str, data: str, method: str) -> dict[str, str]:
    return {
        "method": method,
        "arch": arch,
        "teacher": "",
        "dataset": dataset,
        "augmentation": data,
        "selection": "",
        "scale": "paper",
        "source": ROBUSTBENCH,
    }


def _sides(row: Row) -> list[Row]:
    """Split a row of the table into a row of printed numbers and a row of ours."""
    printed = {
        key: Cell(printed=replace(n, bold=False, underlined=False))
        for key in COMMON
        if (n := row.cell(key).printed)
    }
    ours = {
        key: Cell(ours=replace(n, from_print=None, apart=None))
        for key in COMMON
        if (n := row.cell(key).ours)
    }
    group = UNKNOWN if row.facts["augmentation"] == UNKNOWN_DATA else ALONE
    found = []
    for kind, badge, cells in ((PRINTED_ROW, PRINTED, printed), (OURS_ROW, REPRODUCED, ours)):
        if "aa" in cells:
            facts = {**row.facts, "source": badge}
            own = {RANKED_BY: cells["aa"], **cells}
            found.append(Row(kind, row.labels, group, own, facts, row.notes, row.command))
    return found


def _dataset(spec: TableSpec) -> str:
    assert spec.threat is not None
    return spec.threat[0]
