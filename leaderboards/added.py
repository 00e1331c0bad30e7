"""Rows for our runs that no printed row is like, in sections where only like stands with like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from leaderboards.badges import SMALL
from leaderboards.declared import ColumnSpec, TableSpec
from leaderboards.measured import Measured
from leaderboards.names import architecture_names
from leaderboards.places import Places, difference, embolden, is_baseline
from leaderboards.rendered import OURS_ROW, Cell, Number, RenderedColumn, RenderedRow
from leaderboards.standing import arch_text

OTHER = "other"


def added_rows(
    spec: TableSpec, groups: Sequence[Measured], places: Places
) -> tuple[list[RenderedRow], list[RenderedColumn]]:
    """The rows, best first in each section, and the column they need if none of print's is theirs.

    A section holds one data set, scale and protocol.
    """
    welcome, used = spec.welcome, places.used
    sections: dict[tuple[object, ...], list[Measured]] = defaultdict(list)
    for group in groups:
        if (
            group.is_welcome(welcome.datasets, welcome.small)
            and group["task"] in welcome.tasks
            and (not welcome.methods or group["method"] in welcome.methods)
            and (bool(group["attacks"]) or not spec.attacked)
            and group.seed_key not in used
        ):
            sections[group.protocol_key].append(group)
    rows: list[RenderedRow] = []
    for members in sorted(sections.values(), key=lambda m: (m[0].badge, m[0].protocol)):
        rows += _section(spec, members)
    needs_other = any(OTHER in row.cells for row in rows)
    return rows, [_other_column(spec)] * needs_other


def _section(spec: TableSpec, members: Sequence[Measured]) -> list[RenderedRow]:
    small = members[0].badge == SMALL
    title = f"{'Small scale' if small else 'Also measured here'}: {members[0].protocol}"
    cells = [_cells(spec, group) for group in members]
    for column in (*spec.columns, _other_spec(spec)):
        embolden(cells, column)
    for wanted in spec.differences:
        method = wanted.baselines[0].method
        able = [group for group in members if group["method"] == method]
        for own, group in zip(cells, members, strict=True):
            bases = [base for base in able if is_baseline(base, group, method)]
            if bases and wanted.of in own:
                base = max(bases, key=lambda g: (len(g.runs), str(g["finished_at"])))
                own[f"{wanted.of}-difference"] = _difference(
                    own[wanted.of], cells[members.index(base)].get(wanted.of)
                )
    rows = [
        RenderedRow(
            OURS_ROW,
            tuple(_label(name, group) for name in spec.welcome.labels),
            title,
            own,
            facts=group.facts,
        )
        for group, own in zip(members, cells, strict=True)
    ]
    return sorted(rows, key=lambda row: _rank(spec, row), reverse=True)


def _cells(spec: TableSpec, group: Measured) -> dict[str, Cell]:
    found = {}
    for column in spec.columns:
        if not _is_of_pair(column, group):
            continue
        number = group.number(Places.metric(column))
        if number is not None:
            found[column.key] = Cell(ours=number)
    if not found and not spec.attacked:
        number = group.number("clean")
        if number is not None:
            found[OTHER] = Cell(ours=number)
    return found


def _is_of_pair(column: ColumnSpec, group: Measured) -> bool:
    """Whether a column is of the group's networks, if it is of any."""
    if "teacher" not in column.where:
        return True
    teacher, student = column.where["teacher"], column.where["student_or_arch"]
    return group["teacher"] in architecture_names(teacher) and group["arch"] in architecture_names(
        student
    )


def _label(name: str, group: Measured) -> str:
    if name == "name":
        distilled = group["teacher"]
        return f"{group.name}, {arch_text(group['arch'], distilled)}" if distilled else group.name
    return group.facts.get(name, "")


def _difference(own: Cell, base: Cell | None) -> Cell:
    if own.ours is None or base is None or base.ours is None:
        return Cell()
    value = difference(own.ours, base.ours)
    note = f"computed: {own.ours.value:.2f} - {base.ours.value:.2f}"
    ids = (*own.ours.run_ids, *base.ours.run_ids)
    return Cell(ours=Number(value, own.ours.badge, note=note, run_ids=ids))


def _rank(spec: TableSpec, row: RenderedRow) -> tuple[float, ...]:
    """The number that orders a section: of attacked models AA, else the first that is there."""
    keys = [spec.columns[1].key] if spec.attacked else [*row.cells]
    numbers = [row.cells[key].ours for key in keys if key in row.cells]
    return tuple(number.value for number in numbers if number is not None)


def _other_spec(spec: TableSpec) -> ColumnSpec:
    heads = ("Other", "networks", "Top-1")[: len(spec.columns[0].heads)]
    return ColumnSpec(OTHER, heads, "top1", help="Top-1 accuracy of other networks, percent.")


def _other_column(spec: TableSpec) -> RenderedColumn:
    column = _other_spec(spec)
    return RenderedColumn(column.key, column.heads, "clean", column.help)
