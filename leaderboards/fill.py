"""Fill the printed rows of a table with printed numbers, logged numbers and ours."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from leaderboards.paired import paired_difference
from leaderboards.printed import PRINTED_METRICS, has, logged_number, printed_lines, printed_number
from leaderboards.protocols import is_papers_attack
from leaderboards.results import RunGroup
from leaderboards.spec import (
    Baseline,
    ColumnSpec,
    DifferenceSpec,
    Facts,
    RowSpec,
    TableSpec,
    dataset_name,
)
from leaderboards.table import (
    DIFFERENCE_ROW,
    HEAD_ROW,
    REPRODUCED,
    Cell,
    Number,
    Row,
    mark_best,
)

# The cells of a row, and the groups that fill them, by column.
Filled = tuple[Mapping[str, Cell], Mapping[str, RunGroup]]


def printed_difference(of: Number, base: Number) -> Number:
    """Return the difference of two printed numbers, computed here."""
    note = f"computed: {of.value:.2f} - {base.value:.2f}"
    return Number(round(of.value - base.value, 2), of.badge, note=note, difference=True)


def is_like(group: RunGroup, other: RunGroup) -> bool:
    """Whether two groups differ only in the method and its parameters, by the facts in tables."""
    shared = ("arch", "teacher", "dataset", "augmentation", "scale", "selection")
    return (
        group.seed_key != other.seed_key
        and group.section_key == other.section_key
        and all(group.facts[name] == other.facts[name] for name in shared)
    )


def baseline_difference(
    group: RunGroup, others: Sequence[RunGroup], method: str, metric: str
) -> Number | None:
    """Return the difference from the like group of ``method`` with most seeds, or None."""
    able = [other for other in others if other["method"] == method != group["method"]]
    found = (paired_difference(group, other, metric) for other in able if is_like(other, group))
    known = (number for number in found if number is not None)
    return max(known, key=lambda number: number.seeds or 0, default=None)


class PrintedRows:
    """The printed rows of a table and the groups of runs that fill them."""

    def __init__(self, spec: TableSpec, groups: Sequence[RunGroup]) -> None:
        """Choose a group for every cell."""
        self.spec = spec
        self._table_lines = [line for line in printed_lines() if line["table"] == str(spec.number)]
        self._groups: dict[str, list[RunGroup]] = defaultdict(list)  # by method
        for each in groups:
            fits = (
                is_papers_attack(each.runs[0]) if spec.attacked else each["precision"] == "float32"
            )
            if each.badge == REPRODUCED and fits:
                self._groups[each["method"]].append(each)
        self._lines: list[dict[str, dict[str, str]]] = [
            {
                column.key: line
                for column in spec.columns
                if (line := self._line(row, column)) is not None
            }
            for row in spec.rows
        ]
        self._chosen = [
            {
                column.key: group
                for column in spec.columns
                if row.method and column.key in lines
                if (group := self._choose(row, column, lines[column.key])) is not None
            }
            for row, lines in zip(spec.rows, self._lines, strict=True)
        ]

    @property
    def used(self) -> set[tuple[str, bool]]:
        """``RunGroup.seed_key`` of the groups whose numbers fill cells."""
        return {group.seed_key for chosen in self._chosen for group in chosen.values()}

    def rows(self) -> tuple[Row, ...]:
        """Return the printed rows with all their numbers."""
        cells = [self._cells(index) for index in range(len(self.spec.rows))]
        for row, own in zip(self.spec.rows, cells, strict=True):
            if row.minus is not None:
                self._subtract(own, *((cells[place], self._chosen[place]) for place in row.minus))
        self._mark_best(cells)
        for spec in self.spec.differences:
            for index, own in enumerate(cells):
                cell = self._difference_cell(spec, index, own)
                if cell.numbers:
                    own[f"{spec.of}-difference"] = cell
        return tuple(self._row(index, own) for index, own in enumerate(cells))

    def _subtract(self, own: dict[str, Cell], of: Filled, base: Filled) -> None:
        """Complete a row of printed differences: recompute them from printed numbers, add ours."""
        metrics = {column.key: column.metric for column in self.spec.columns}
        for key, cell in list(own.items()):
            printed, ours = cell.printed, None
            above, below = of[0][key].printed, base[0][key].printed
            if printed is not None and above is not None and below is not None:
                value = printed_difference(above, below).value
                printed = dataclasses.replace(printed, recomputed=value)
            first, second = of[1].get(key), base[1].get(key)
            if first is not None and second is not None and is_like(first, second):
                ours = paired_difference(first, second, metrics[key])
            own[key] = Cell(printed, None, ours)

    def _line(self, row: RowSpec, column: ColumnSpec) -> dict[str, str] | None:
        """Return the line of ``reported.csv`` for a cell; None if nothing is printed."""
        if row.kind == HEAD_ROW and column.metric != "clean":
            return None
        facts = self.spec.facts_of(row, column)
        found = [line for line in self._table_lines if has(line, facts)]
        if len(found) > 1:
            raise ValueError(f"Table {self.spec.number}: {len(found)} lines for {dict(facts)}")
        return found[0] if found else None

    def _choose(self, row: RowSpec, column: ColumnSpec, line: Facts) -> RunGroup | None:
        """Return the group for a cell: printed selection first, then most seeds, then newest.

        Without an attack in the table, an evaluation without attacks comes first, so that all rows
        have the same protocol where possible.
        """
        head = row.kind == HEAD_ROW
        fitting = [
            group
            for group in self._groups[row.method]
            if group.fits(
                dataset=line["dataset"],
                arch=line[row.arch_fact] if head else line["student_or_arch"],
                teacher="" if head else line["teacher"],
                augmentation="" if head else line["augmentation"],
            )
            and group.has_params(row.params)
            and column.metric in group.metrics
        ]
        return max(
            fitting,
            key=lambda group: (
                group["selection"] == row.selection,
                self.spec.attacked or not group["attacks"],
                *group.preference,
            ),
            default=None,
        )

    def _cells(self, index: int) -> dict[str, Cell]:
        found = {}
        for column in self.spec.columns:
            line = self._lines[index].get(column.key)
            if line is None:
                continue
            printed = printed_number(line)
            group = self._chosen[index].get(column.key)
            ours = group.number(column.metric) if group else None
            if ours is not None and group is not None and column.comparable:
                ours = _compared(ours, printed, self.spec.rows[index], group)
            found[column.key] = Cell(printed, logged_number(line), ours)
        return found

    def _mark_best(self, cells: Sequence[dict[str, Cell]]) -> None:
        """Mark our best number of each column among the rows that are ranked together."""
        for column in self.spec.columns:
            rivals: dict[tuple[object, ...], list[dict[str, Cell]]] = {}
            for row, own, chosen in zip(self.spec.rows, cells, self._chosen, strict=True):
                group = chosen.get(column.key)
                if group is not None and row.kind not in (HEAD_ROW, DIFFERENCE_ROW):
                    facts = {"group": row.group, **row.where}
                    key = (facts.get(name, "") for name in self.spec.ranked_within)
                    rivals.setdefault((group.section_key, *key), []).append(own)
            for together in rivals.values() if column.comparable else ():
                mark_best(together, column)

    def _difference_cell(self, spec: DifferenceSpec, index: int, own: Mapping[str, Cell]) -> Cell:
        """Return the differences of a row's printed number and of ours from the baseline's."""
        cell, line = own.get(spec.of), self._lines[index].get(spec.of)
        if cell is None or line is None or cell.printed is None:
            return Cell()
        baseline = next((b for b in spec.baselines if has(line, b.applies_to)), None)
        if baseline is None:
            return Cell()
        base = _baseline_line(baseline, line)
        printed = None
        if base is not None and base != line:
            printed = printed_difference(cell.printed, printed_number(base))
        group, ours = self._chosen[index].get(spec.of), None
        if group is not None and cell.ours is not None:
            others, metric = self._groups[baseline.method], PRINTED_METRICS[line["metric"]]
            ours = baseline_difference(group, others, baseline.method, metric)
        return Cell(printed, None, ours)

    def _row(self, index: int, cells: Mapping[str, Cell]) -> Row:
        row, lines = self.spec.rows[index], list(self._lines[index].values())
        badges = {number.badge for cell in cells.values() for number in cell.numbers}
        shared = {line["teacher"] for line in lines}, {line["student_or_arch"] for line in lines}
        teacher, arch = (found.pop() if len(found) == 1 else "" for found in shared)
        # All distillation methods share the recipe of a teacher-student pair.
        method = "" if self.spec.attacked else f"--method {row.method} "
        return Row(
            row.kind,
            row.labels,
            row.group,
            cells,
            facts={
                "method": row.method,
                "arch": arch,
                "teacher": teacher,
                "dataset": dataset_name(lines[0]["dataset"]),
                "augmentation": lines[0]["augmentation"],
                "selection": row.selection,
                "scale": "paper",
                "source": ",".join(sorted(badges)),
            },
            notes=row.notes,
            command=f"python -m harness run {method}--recipe {row.recipe}" if row.recipe else "",
        )


def _compared(ours: Number, printed: Number, row: RowSpec, group: RunGroup) -> Number:
    """Return ours with its difference from the printed number, unless epoch selection differs."""
    if row.selection and group["selection"] and row.selection != group["selection"]:
        note = f"{ours.note}; printed: epoch {row.selection}, so the two are not compared"
        return dataclasses.replace(ours, note=note)
    gap, apart = ours.value - printed.value, not ours.overlaps(printed)
    return dataclasses.replace(ours, from_print=gap, apart=apart)


def _baseline_line(baseline: Baseline, line: Facts) -> dict[str, str] | None:
    facts = {**baseline.where, **{name: line[name] for name in baseline.same}}
    facts["metric"] = line["metric"]
    return next((found for found in printed_lines() if has(found, facts)), None)
