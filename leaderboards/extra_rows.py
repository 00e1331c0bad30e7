"""Rows for our runs that match no printed row, by protocol and training data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from leaderboards.fill import PrintedRows, baseline_difference
from leaderboards.protocols import accuracy_help, attacks_of, metric_title, ranking_metric
from leaderboards.results import RunGroup
from leaderboards.spec import (
    ColumnSpec,
    DifferenceSpec,
    TableSpec,
    arch_text,
    architecture_names,
)
from leaderboards.table import OURS_ROW, REPRODUCED, Cell, Column, Row, mark_best

OTHER = "other"


def extra_rows(
    spec: TableSpec, groups: Sequence[RunGroup], printed: PrintedRows
) -> tuple[list[Row], list[Column]]:
    """Return the rows, best first in each section, and the columns they need that are not printed.

    Runs at small scale have a separate table.

    Accuracy after anything less than full AutoAttack must not be mistaken for AA, so it has a
    column named after the last attack.
    """
    used = printed.used
    reproduced = [group for group in groups if group.badge == REPRODUCED]
    sections: dict[tuple[str, str, bool], list[RunGroup]] = defaultdict(list)
    for group in reproduced:
        if (
            spec.includes.accepts(
                dataset=group["dataset"], task=group["task"], method=group["method"]
            )
            and (bool(group["attacks"]) or not spec.attacked)
            and group.seed_key not in used
        ):
            sections[group.section_key].append(group)
    rows: list[Row] = []
    for members in sorted(sections.values(), key=lambda m: m[0].section_title):
        rows += _section(spec, members, reproduced)
    filled = {key for row in rows for key in row.cells}
    attacks = sorted({attack for group in groups if (attack := _last_attack(spec, group))})
    further = [*(_after_column(spec, attack) for attack in attacks), _other_column(spec)]
    return rows, [column for column in further if column.key in filled]


def _section(
    spec: TableSpec, members: Sequence[RunGroup], reproduced: Sequence[RunGroup]
) -> list[Row]:
    """Return the rows of a section; their baselines may be anywhere among ``reproduced``."""
    first = members[0]
    title = f"Also measured here: {first.section_title}"
    cells = [_cells(spec, group) for group in members]
    after = _last_attack(spec, first)
    columns = [*spec.columns, *([_after_column(spec, after)] if after else []), _other_column(spec)]
    for column in columns:
        if column.comparable and column.key != OTHER:
            mark_best(cells, column)
    for wanted in spec.differences:
        metric = next(column.metric for column in spec.columns if column.key == wanted.of)
        for own, group in zip(cells, members, strict=True):
            method = _baseline(wanted, group)
            difference = baseline_difference(group, reproduced, method, metric)
            if difference is not None:
                own[f"{wanted.of}-difference"] = Cell(ours=difference)
    rows = [
        Row(
            OURS_ROW,
            tuple(_label(name, group) for name in spec.includes.labels),
            title,
            own,
            facts=group.facts,
        )
        for group, own in zip(members, cells, strict=True)
        if own
    ]
    key = _ranking_key(spec, first)
    return sorted(rows, key=lambda row: _rank(row, key), reverse=True)


def _baseline(wanted: DifferenceSpec, group: RunGroup) -> str:
    """Return the method of the first baseline for the group's training data; empty if none is."""
    data = group.facts["augmentation"]
    for baseline in wanted.baselines:
        if baseline.applies_to.get("augmentation", data) == data:
            return baseline.method
    return ""


def _cells(spec: TableSpec, group: RunGroup) -> dict[str, Cell]:
    metrics = {column.key: column.metric for column in spec.columns if _is_of_pair(column, group)}
    after = _last_attack(spec, group)
    if after:
        metrics[_after_key(after)] = after
    found = {key: group.number(metric) for key, metric in metrics.items()}
    if not any(found.values()) and not spec.attacked:
        found = {OTHER: group.number("clean")}
    return {key: Cell(ours=number) for key, number in found.items() if number is not None}


def _is_of_pair(column: ColumnSpec, group: RunGroup) -> bool:
    """Whether a column, if it is for a teacher-student pair, is for the group's pair."""
    if "teacher" not in column.where:
        return True
    teacher, student = column.where["teacher"], column.where["student_or_arch"]
    return group["teacher"] in architecture_names(teacher) and group["arch"] in architecture_names(
        student
    )


def _label(name: str, group: RunGroup) -> str:
    if name == "name":
        distilled = group["teacher"]
        return f"{group.name}, {arch_text(group['arch'], distilled)}" if distilled else group.name
    return group.facts.get(name, "")


def _last_attack(spec: TableSpec, group: RunGroup) -> str:
    """Return the last attack if no printed column has the accuracy after it; else empty.

    Full AutoAttack ends in Square, but the accuracy after it is called AA.
    """
    if not spec.attacked or not group["attacks"] or "aa" in group.metrics:
        return ""
    last = attacks_of(group.runs[0])[-1]
    return "" if last in [column.metric for column in spec.columns] else last


def _ranking_key(spec: TableSpec, group: RunGroup) -> str:
    """Return the key of the column that orders a section of attacked models; empty for others."""
    if not spec.attacked:
        return ""
    after = _last_attack(spec, group)
    if after:
        return _after_key(after)
    metric = ranking_metric(attacks_of(group.runs[0]), group.metrics)
    return next(column.key for column in spec.columns if column.metric == metric)


def _rank(row: Row, key: str) -> tuple[float, ...]:
    """Return a row's sort key: its number in the column ``key``, or all its numbers without one."""
    numbers = [row.cells[name].ours for name in ([key] if key else row.cells) if name in row.cells]
    return tuple(number.value for number in numbers if number is not None)


def _after_key(attack: str) -> str:
    return f"after-{attack}"


def _after_column(spec: TableSpec, attack: str) -> Column:
    heads = ("",) * (len(spec.columns[0].heads) - 1) + (f"after {metric_title(attack)}",)
    return Column(_after_key(attack), heads, attack, accuracy_help(attack))


def _other_column(spec: TableSpec) -> Column:
    heads = ("Other", "architectures", "Top-1")[: len(spec.columns[0].heads)]
    return Column(OTHER, heads, "clean", "Top-1 accuracy of other architectures, percent.")
