"""Rows for our runs that no printed row is like, in sections where only like stands with like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from leaderboards.fill import Places, difference, is_baseline, mark_best
from leaderboards.names import architecture_names
from leaderboards.protocols import attacks_of
from leaderboards.ranking import arch_text
from leaderboards.render.summary import metric_title
from leaderboards.results import Measured
from leaderboards.spec import ColumnSpec, TableSpec
from leaderboards.table import OURS_ROW, SMALL, Cell, Column, Number, Row

OTHER = "other"


def added_rows(
    spec: TableSpec, groups: Sequence[Measured], places: Places
) -> tuple[list[Row], list[Column]]:
    """The rows, best first in each section, and the columns they need where none of print's is.

    A section holds one data set, scale and protocol. What an attack leaves that is not all of
    AutoAttack must not pass for AA, so it has a column that names the attack.
    """
    welcome, used = spec.welcome, places.used
    sections: dict[tuple[object, ...], list[Measured]] = defaultdict(list)
    for group in groups:
        if (
            group.accepts(welcome.datasets, welcome.small)
            and group["task"] in welcome.tasks
            and (not welcome.methods or group["method"] in welcome.methods)
            and (bool(group["attacks"]) or not spec.attacked)
            and group.seed_key not in used
        ):
            sections[group.protocol_key].append(group)
    rows: list[Row] = []
    for members in sorted(sections.values(), key=lambda m: (m[0].badge, m[0].protocol)):
        rows += _section(spec, members)
    filled = {key for row in rows for key in row.cells}
    attacks = sorted({attack for group in groups if (attack := _last_attack(spec, group))})
    further = [*(_after_spec(spec, attack) for attack in attacks), _other_spec(spec)]
    return rows, [_rendered(column) for column in further if column.key in filled]


def _section(spec: TableSpec, members: Sequence[Measured]) -> list[Row]:
    small = members[0].badge == SMALL
    title = f"{'Small scale' if small else 'Also measured here'}: {members[0].protocol}"
    cells = [_cells(spec, group) for group in members]
    after = _last_attack(spec, members[0])
    columns = [*spec.columns, *([_after_spec(spec, after)] if after else []), _other_spec(spec)]
    # A part of the data ranks nobody, so nothing is the best of it.
    if not members[0]["partial"]:
        for column in columns:
            mark_best(cells, column)
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
        Row(
            OURS_ROW,
            tuple(_label(name, group) for name in spec.welcome.labels),
            title,
            own,
            facts=group.facts,
        )
        for group, own in zip(members, cells, strict=True)
    ]
    key = _ranking_key(spec, members[0])
    shown = [row for row in rows if row.cells]
    return sorted(shown, key=lambda row: _rank(row, key), reverse=True)


def _cells(spec: TableSpec, group: Measured) -> dict[str, Cell]:
    found = {}
    for column in spec.columns:
        if not _is_of_pair(column, group):
            continue
        number = group.number(Places.metric(column))
        if number is not None:
            found[column.key] = Cell(ours=number)
    after = _last_attack(spec, group)
    if after:
        number = group.number(after)
        if number is not None:
            found[_after_key(after)] = Cell(ours=number)
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


def _last_attack(spec: TableSpec, group: Measured) -> str:
    """The attack whose number none of print's columns has; empty if one has it.

    Whole AutoAttack ends in Square, but what it leaves is called AA.
    """
    if not spec.attacked or not group["attacks"] or "aa" in group.scores:
        return ""
    last = attacks_of(group.runs[0])[-1]
    return "" if last in map(Places.metric, spec.columns) else last


def _ranking_key(spec: TableSpec, group: Measured) -> str:
    """The column that orders a section of attacked models; empty for others."""
    if not spec.attacked:
        return ""
    after = _last_attack(spec, group)
    if after:
        return _after_key(after)
    metric = "aa" if "aa" in group.scores else attacks_of(group.runs[0])[-1]
    return next(column.key for column in spec.columns if Places.metric(column) == metric)


def _rank(row: Row, key: str) -> tuple[float, ...]:
    """The number that orders a section: what the last attack left, else the first that is there."""
    numbers = [row.cells[name].ours for name in ([key] if key else row.cells) if name in row.cells]
    return tuple(number.value for number in numbers if number is not None)


def _after_key(attack: str) -> str:
    return f"after-{attack}"


def _after_spec(spec: TableSpec, attack: str) -> ColumnSpec:
    title = metric_title(attack)
    heads = ("",) * (len(spec.columns[0].heads) - 1) + (f"after {title}",)
    text = (
        f"Accuracy after {title}, the last attack of runs that were not attacked by all of "
        "AutoAttack, percent; not AA, which further attacks make lower."
    )
    return ColumnSpec(_after_key(attack), heads, attack, help=text)


def _other_spec(spec: TableSpec) -> ColumnSpec:
    heads = ("Other", "networks", "Top-1")[: len(spec.columns[0].heads)]
    return ColumnSpec(OTHER, heads, "top1", help="Top-1 accuracy of other networks, percent.")


def _rendered(column: ColumnSpec) -> Column:
    metric = "clean" if column.key == OTHER else column.metric
    return Column(column.key, column.heads, metric, column.help)
