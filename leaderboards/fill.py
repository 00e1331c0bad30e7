"""The printed rows of a table: the printed number of every place, the log's, and ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache

from harness.evaluation.analysis.statistics import wilson_interval
from leaderboards.names import dataset_name
from leaderboards.printed import PRINTED_METRICS, evidence_of, has, lines_of, load_reported
from leaderboards.results import Measured
from leaderboards.spec import Baseline, ColumnSpec, DifferenceSpec, Facts, RowSpec, TableSpec
from leaderboards.table import (
    DIFFERENCE_ROW,
    HEAD_ROW,
    LOGGED,
    PRINTED,
    REPRODUCED,
    Cell,
    Number,
    Row,
)

SINGLE_PROCESS = {"teacher_top1": "clean", "student_top1": "clean"}


@cache
def printed_lines() -> tuple[dict[str, str], ...]:
    """The lines of ``reported.csv`` as facts."""
    return tuple(lines_of(load_reported()))


def difference(of: Number, base: Number, decimals: int = 2) -> float:
    """The difference of two numbers as they are shown."""
    return round(round(of.value, decimals) - round(base.value, decimals), decimals)


def best(numbers: Sequence[float], lower_is_better: bool) -> float:
    """The best of several numbers as they are shown."""
    return min(numbers) if lower_is_better else max(numbers)


class Places:
    """The places of a table and what stands there.

    Args:
        spec: the table.
        groups: everything measured here.
    """

    def __init__(self, spec: TableSpec, groups: Sequence[Measured]) -> None:
        """Find the group of every place."""
        self.spec = spec
        self._lines = [line for line in printed_lines() if line["table"] == str(spec.number)]
        suited = [g for g in groups if g.is_attacked_as_papers] if spec.attacked else groups
        self._groups = [group for group in suited if group.badge == REPRODUCED]
        self._chosen: dict[tuple[int, str], Measured] = {}
        for index, row in enumerate(spec.rows):
            for column in spec.columns:
                line = self._line(row, column)
                group = self._choose(row, column, line) if line and row.method else None
                if group is not None:
                    self._chosen[index, column.key] = group

    @property
    def used(self) -> set[tuple[object, ...]]:
        """Keys of the trainings that stand beside printed numbers."""
        return {group.seed_key for group in self._chosen.values()}

    @staticmethod
    def metric(column: ColumnSpec) -> str:
        """What our results call a column's metric."""
        return PRINTED_METRICS[column.metric]

    def rows(self) -> tuple[Row, ...]:
        """The printed rows with all their numbers."""
        cells = [self._cells(index, row) for index, row in enumerate(self.spec.rows)]
        for row, own in zip(self.spec.rows, cells, strict=True):
            if row.minus is not None:
                self._subtract(own, cells[row.minus[0]], cells[row.minus[1]])
        self._embolden(cells)
        for spec in self.spec.differences:
            for index, own in enumerate(cells):
                cell = self._difference_cell(spec, index, own)
                if cell.numbers:
                    own[f"{spec.of}-difference"] = cell
        return tuple(
            self._row(index, row, own)
            for index, (row, own) in enumerate(zip(self.spec.rows, cells, strict=True))
        )

    def _line(self, row: RowSpec, column: ColumnSpec) -> dict[str, str] | None:
        """The line of ``reported.csv`` at a place; None where nothing is printed."""
        if row.kind == HEAD_ROW and column.metric != "top1":
            return None
        facts = self.spec.facts_of(row, column)
        found = [line for line in self._lines if has(line, facts)]
        if len(found) > 1:
            raise ValueError(f"Table {self.spec.number}: {len(found)} lines for {dict(facts)}")
        return found[0] if found else None

    def _choose(self, row: RowSpec, column: ColumnSpec, line: Facts) -> Measured | None:
        """Of the groups that may stand at a place, that of the printed rule, seeds, newest."""
        head = row.kind == HEAD_ROW
        metric = self.metric(column)
        fitting = [
            group
            for group in self._groups
            if metric in group.scores
            and group.fits(
                method=row.method,
                dataset=line["dataset"],
                arch=line[row.network] if head else line["student_or_arch"],
                teacher="" if head else line["teacher"],
                augmentation="" if head else line["augmentation"],
            )
            and group.has_params(row.params)
        ]
        return max(
            fitting,
            key=lambda group: (
                group["selection"] == row.selection,
                len(group.runs),
                str(group["finished_at"]),
            ),
            default=None,
        )

    def _cells(self, index: int, row: RowSpec) -> dict[str, Cell]:
        found = {}
        for column in self.spec.columns:
            line = self._line(row, column)
            if line is None:
                continue
            number = self._printed(line, column)
            group = self._chosen.get((index, column.key))
            ours = group.number(self.metric(column)) if group else None
            if ours is not None and group is not None and column.comparable:
                ours = _set_against(ours, number, row, group, column.decimals)
            found[column.key] = Cell(number, self._logged(line), ours)
        return found

    def _printed(self, line: Facts, column: ColumnSpec) -> Number:
        value = float(line["value"])
        low = high = n = None
        if self.spec.models == 1:
            n = self.spec.images
            ends = wilson_interval(round(value / 100 * n), n)
            low, high = 100 * ends[0], 100 * ends[1]
        return Number(
            value,
            PRINTED,
            low=low,
            high=high,
            std=None if line["std"] == "nan" else float(line["std"]),
            n=n,
            bold=line["bold"] == "True",
            underlined=line["underlined"] == "True",
            disputed=evidence_of(dict(line)),
            note=line["note"],
        )

    def _logged(self, line: Facts) -> Number | None:
        for log in self.spec.logged:
            if has(dict(line), log.where) and line["metric"] in log.values:
                return Number(log.values[line["metric"]], LOGGED, note=log.source)
        return None

    @staticmethod
    def _subtract(own: dict[str, Cell], of: Mapping[str, Cell], base: Mapping[str, Cell]) -> None:
        """Fill a row of differences: recompute print's and add ours."""
        for key, cell in list(own.items()):
            minuend, subtrahend = of[key], base[key]
            printed = cell.printed
            if printed is not None and minuend.printed and subtrahend.printed:
                recomputed = difference(minuend.printed, subtrahend.printed)
                printed = dataclasses.replace(printed, recomputed=recomputed)
            ours = None
            if minuend.ours and subtrahend.ours:
                ours = _difference_number(minuend.ours, subtrahend.ours)
            own[key] = Cell(printed, None, ours)

    def _embolden(self, cells: Sequence[dict[str, Cell]]) -> None:
        """Mark the best of ours in each column among like rows, where there are several."""
        for column in self.spec.columns:
            rivals: dict[tuple[str, ...], list[int]] = {}
            for index, (row, own) in enumerate(zip(self.spec.rows, cells, strict=True)):
                ranked = row.kind not in (HEAD_ROW, DIFFERENCE_ROW)
                if ranked and column.key in own and own[column.key].ours:
                    facts = {"group": row.group, **row.where}
                    key = tuple(facts.get(name, "") for name in self.spec.compete)
                    rivals.setdefault(key, []).append(index)
            for places in rivals.values():
                mark_best([cells[index] for index in places], column)

    def _difference_cell(self, spec: DifferenceSpec, index: int, own: Mapping[str, Cell]) -> Cell:
        row, cell = self.spec.rows[index], own.get(spec.of)
        column = next(column for column in self.spec.columns if column.key == spec.of)
        line = self._line(row, column)
        if cell is None or line is None:
            return Cell()
        baseline = next((b for b in spec.baselines if has(dict(line), b.like)), None)
        if baseline is None or cell.printed is None:
            return Cell()
        base = _baseline_line(baseline, line)
        printed = None
        if base is not None and base != line:
            printed = _difference_number(cell.printed, self._printed(base, column))
        group = self._chosen.get((index, spec.of))
        ours = None
        if group is not None and cell.ours is not None:
            ours = self._difference_of_ours(baseline, group, cell.ours, column)
        return Cell(printed, None, ours)

    def _difference_of_ours(
        self, baseline: Baseline, group: Measured, number: Number, column: ColumnSpec
    ) -> Number | None:
        candidates = [g for g in self._groups if is_baseline(g, group, baseline.method)]
        chosen = max(candidates, key=lambda g: (len(g.runs), str(g["finished_at"])), default=None)
        base = chosen.number(self.metric(column)) if chosen else None
        return _difference_number(number, base) if base else None

    def _row(self, index: int, row: RowSpec, cells: Mapping[str, Cell]) -> Row:
        lines = [line for column in self.spec.columns if (line := self._line(row, column))]
        first = lines[0]
        badges = {number.badge for cell in cells.values() for number in cell.numbers}
        shared = {line["teacher"] for line in lines}, {line["student_or_arch"] for line in lines}
        teacher, arch = (found.pop() if len(found) == 1 else "" for found in shared)
        # A pair's recipe is each distillation method's.
        method = "" if self.spec.attacked else f"--method {row.method} "
        command = f"python -m harness run {method}--recipe {row.recipe}" if row.recipe else ""
        return Row(
            row.kind,
            row.labels,
            row.group,
            cells,
            facts={
                "method": row.method,
                "arch": arch,
                "teacher": teacher,
                "dataset": dataset_name(first["dataset"]),
                "augmentation": first["augmentation"],
                "selection": row.selection,
                "scale": "paper",
                "source": ",".join(sorted(badges)),
            },
            notes=row.notes,
            command=command,
        )


def is_baseline(group: Measured, of: Measured, method: str) -> bool:
    """Whether a group is of the baseline's method, and like another in all else that matters."""
    shared = ("arch", "teacher", "dataset", "augmentation", "scale")
    return (
        group["method"] == method
        and group.seed_key != of.seed_key
        and group.protocol_key == of.protocol_key
        and all(group.facts[name] == of.facts[name] for name in shared)
    )


def mark_best(cells: Sequence[dict[str, Cell]], column: ColumnSpec) -> None:
    """Mark our best number of a column; where there is but one, nothing is the best."""
    places = [cell for cell in cells if column.key in cell and cell[column.key].ours]
    if len(places) < 2:
        return
    shown = [round(_ours(cell, column.key).value, column.decimals) for cell in places]
    first = best(shown, column.lower_is_better)
    for cell, value in zip(places, shown, strict=True):
        if value == first:
            ours = dataclasses.replace(_ours(cell, column.key), bold=True)
            cell[column.key] = dataclasses.replace(cell[column.key], ours=ours)


def _ours(cells: Mapping[str, Cell], key: str) -> Number:
    ours = cells[key].ours
    if ours is None:
        raise ValueError(f"nothing of ours stands in column {key}")
    return ours


def _set_against(
    ours: Number, printed: Number, row: RowSpec, group: Measured, decimals: int
) -> Number:
    """Ours with its difference from print, unless the epochs were chosen by different rules."""
    if row.selection and group["selection"] and row.selection != group["selection"]:
        note = f"{ours.note}; printed: epoch {row.selection}, so not compared with print"
        return dataclasses.replace(ours, note=note)
    return dataclasses.replace(ours, from_print=difference(ours, printed, decimals))


def _difference_number(of: Number, base: Number) -> Number:
    """The difference of two shown numbers of one source, from which it is computed."""
    value = difference(of, base)
    note = f"computed: {of.value:.2f} - {base.value:.2f}"
    return Number(value, of.badge, note=note, run_ids=(*of.run_ids, *base.run_ids))


def _baseline_line(baseline: Baseline, line: Facts) -> dict[str, str] | None:
    facts = {**baseline.where, **{name: line[name] for name in baseline.same}}
    facts["metric"] = line["metric"]
    return next((found for found in printed_lines() if has(found, facts)), None)
