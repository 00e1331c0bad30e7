"""Differences at small scale: methods minus a reference, and the paper's losses minus the others.

A study is a set of runs with the same training and evaluation setup. Its reference is KL training,
or classical KD for distillation.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from leaderboards.paired import paired_difference
from leaderboards.paper import SUBJECT
from leaderboards.results import RunGroup
from leaderboards.small import sections_of, study_metric
from leaderboards.spec import arch_text
from leaderboards.table import OURS_ROW, Cell, Column, Number, Row, Table, with_keys

# Reference method by task; natural training is compared with the reference in its study.
REFERENCES = {"adversarial": "kl", "distillation": "kd"}
TITLE, DIFFERENCE = "Differences at small scale", "difference"
# Fact in ``Row.facts``: whether the subtracted method is the study's reference.
AGAINST, REFERENCE, OTHERS = "against", "reference", "others"
# Facts that the runs of a study share. A method may bring its own teacher, and hold images out to
# choose the epoch.
ALIKE = ("arch", "generated_name", "train_limit")
# Parameter of methods that train a separate first stage, for which they get additional epochs.
FIRST_STAGE = "first_stage"
MINUS = "\u2212"
FOREST = Column(
    DIFFERENCE,
    ("Difference",),
    "robust",
    "Accuracy of the first minus that of the second, percentage points, mean over the shared "
    "seeds.",
    forest=True,
    seeds=False,
)


def difference_table(groups: Sequence[RunGroup]) -> Table:
    """Return the table of paired differences over shared seeds, largest first in each study.

    All methods minus the reference of their study come first, then the paper's losses minus every
    other method.
    """
    studies = [study for members in sections_of(groups) for study in _studies(members)]
    rows = [row for study in studies for row in _against_reference(study)]
    rows += [row for study in studies for row in _subject_against_others(study)]
    return Table(
        title=TITLE,
        slug="differences",
        labels=("Compared", "Network", "Seeds"),
        columns=(FOREST,),
        rows=with_keys(rows),
        caption="Each method minus the reference of its study (KL training or classical KD), and "
        "the paper's losses minus the other methods, on shared seeds and images. An interval that "
        "contains 0 shows no difference.",
        remarks=(
            "Each method is trained with its own recipe, so a difference reflects the whole "
            "method: the page Compare and the command `compare` list what else differs.",
        ),
        has_ours=bool(rows),
        subject=SUBJECT,
        message=""
        if rows
        else "no method shares a seed, a network and a protocol with KL, KD or the paper's losses "
        "yet",
        first_run="python -m harness run --method kl",
    )


def _studies(members: Sequence[RunGroup]) -> list[list[RunGroup]]:
    studies: dict[tuple[object, ...], list[RunGroup]] = defaultdict(list)
    for group in members:
        studies[tuple(group[name] for name in ALIKE)].append(group)
    return list(studies.values())


def _against_reference(study: Sequence[RunGroup]) -> list[Row]:
    """Return every method minus the reference, one section for each group of the reference."""
    sections: dict[str, list[Row]] = defaultdict(list)
    for group in study:
        found = [
            (base, number)
            for base in study
            if _is_reference(base, group) and (number := _difference(group, base)) is not None
        ]
        if found:
            base, number = max(found, key=lambda pair: _preference(group, *pair))
            title = _title(base, f"minus {_short(base)}")
            facts = {**group.facts, AGAINST: REFERENCE}
            sections[title].append(_row(group, base, number, title, facts))
    return [row for rows in sections.values() for row in _best_first(rows)]


def _is_reference(base: RunGroup, group: RunGroup) -> bool:
    """Whether ``base`` is the reference method of ``group``, a group of another method."""
    return (
        base["method"] == REFERENCES.get(base["task"])
        and group["method"] not in REFERENCES.values()
        and group["task"] in (base["task"], "natural")
    )


def _difference(of: RunGroup, base: RunGroup) -> Number | None:
    """Return the paired difference; None if the two cannot be compared.

    Both need the same number of epochs, unless one of them trains a separate first stage.
    """
    staged = any(FIRST_STAGE in json.loads(group["params"] or "{}") for group in (of, base))
    if not staged and of["epochs_planned"] != base["epochs_planned"]:
        return None
    return paired_difference(of, base, study_metric(of))


def _preference(group: RunGroup, base: RunGroup, number: Number) -> tuple[bool, int, str]:
    """Return a sort key that is greatest for the reference to compare a group with."""
    return group["teacher"] == base["teacher"], number.seeds or 0, base.preference[1]


def _subject_against_others(study: Sequence[RunGroup]) -> Iterator[Row]:
    """Yield the paper's losses minus every other method that is not a reference."""
    others = [g for g in study if g["method"] not in (*SUBJECT, *REFERENCES.values())]
    for own in (group for group in study if group["method"] in SUBJECT):
        title = _title(own, f"{own.method_name} minus the others")
        yield from _best_first(
            [
                # Every row is about the paper's loss, so none is highlighted.
                _row(own, other, number, title, {**other.facts, AGAINST: OTHERS})
                for other in others
                if (number := _difference(own, other)) is not None
            ]
        )


def _row(of: RunGroup, base: RunGroup, number: Number, title: str, facts: dict[str, str]) -> Row:
    network = arch_text(of["arch"] or "", of["teacher"])
    if of["epochs_planned"] != base["epochs_planned"]:
        network += f", {of['epochs_planned']:.0f} epochs vs {base['epochs_planned']:.0f}"
    held_out, by_base = (int(group["val_size"] or 0) for group in (of, base))
    if held_out != by_base:
        network += f", {held_out:,} vs {by_base:,} images held out"
    cell = Cell(ours=replace(number, note=f"{number.note}; {of.note}"))
    labels = (f"{of.method_name} {MINUS} {_short(base)}", network, str(number.seeds))
    return Row(OURS_ROW, labels, title, {DIFFERENCE: cell}, facts)


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -(n.value if (n := row.number(DIFFERENCE)) else 0.0))


def _title(group: RunGroup, what: str) -> str:
    """Return the dataset, the network, what is subtracted, and the protocol of both."""
    dataset, _, measured = group.protocol.partition(", ")
    return f"{dataset}, {arch_text(group['arch'] or '', group['teacher'])}: {what} ({measured})"


def _short(group: RunGroup) -> str:
    """Return a method's name without the explanation in parentheses."""
    return group.method_name.partition(" (")[0]
