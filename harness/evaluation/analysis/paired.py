"""Compare models image by image on the images they share, or by their means over seeds.

Nothing is read from disk here: the inputs are records and verdict tables, so the command line and
the app compare in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import UserError
from harness.evaluation.analysis.comparable import (
    Evaluated,
    Facts,
    check_order,
    check_protocols,
    differences,
    quoted_protocol,
    settings,
)
from harness.evaluation.analysis.sequential import difference_interval, equality_p_value
from harness.evaluation.analysis.statistics import (
    MeanDifference,
    PairedComparison,
    SeedsSummary,
    compare_paired,
    seeds_summary,
    welch,
)
from harness.store.verdicts import correct_after

# These change the randomness or execution of attacks, but not what is measured.
RANDOMNESS_FIELDS = ("seed", "chunk_size", "accelerate")
NAMED_DIFFERENCES = 6


@dataclass(frozen=True)
class Comparison:
    """Two models, image by image.

    Attributes:
        a: name of the first.
        b: name of the second.
        evaluations: the id of each one's evaluation.
        notes: caveats, which are shown before the numbers.
        protocol: the threat model and attacks of both.
        shared: number of images that both were evaluated on; only these are compared.
        metrics: ``clean``, each stage (accuracy after it) and ``aa``, or ``robust`` if the attacks
            are not standard AutoAttack.
    """

    a: str
    b: str
    evaluations: tuple[str, str]
    notes: tuple[str, ...]
    protocol: dict[str, Any]
    shared: int
    metrics: dict[str, PairedComparison]


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in the seed.

    Attributes:
        name: name of the first run.
        runs: the run ids.
        metrics: metric to its summary over the runs.
    """

    name: str
    runs: tuple[str, ...]
    metrics: dict[str, SeedsSummary]


@dataclass(frozen=True)
class SeedsComparison:
    """Groups of runs compared over their seeds.

    Attributes:
        notes: caveats, which are shown before the numbers.
        protocol: the threat model and attacks of all.
        shared: number of images that all were evaluated on; only these count.
        groups: the groups; the others are compared with the first.
        differences: for each other group, metric to the first group's mean minus that group's mean;
            empty if one of the two has a single run.
    """

    notes: tuple[str, ...]
    protocol: dict[str, Any]
    shared: int
    groups: tuple[SeedGroup, ...]
    differences: tuple[dict[str, MeanDifference], ...]


def compare(a: Evaluated, b: Evaluated) -> Comparison:
    """Compare two models on the images that both were evaluated on.

    Protocols that differ in the norm, the radius, the attacks or the precision are an error, not a
    note: the difference would be one of protocols as much as of models, and a note is lost when a
    table is copied.

    Raises:
        UserError: the protocols or the test images differ, or no image is shared.
    """
    (correct_a, correct_b), shared = shared_correct((a, b))
    population = a.protocol.get("population")
    return Comparison(
        a=a.name,
        b=b.name,
        evaluations=(a.evaluation_id, b.evaluation_id),
        notes=(*cause_notes(a, b), *evaluation_notes((a, b), shared)),
        protocol=quoted_protocol(a),
        shared=shared,
        metrics={
            name: compare_paired(right, correct_b[name])
            if population is None
            else compare_drawn(right, correct_b[name], population)
            for name, right in correct_a.items()
        },
    )


def compare_drawn(
    correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_], population: int
) -> PairedComparison:
    """Compare on images [N] in random order; interval and p-value are valid at any stopping time.

    Args:
        correct_a: bool [N], whether the first model is right, in the order of drawing.
        correct_b: bool [N], whether the second is, for the same images.
        population: number of images in the test set they were drawn from.
    """
    low, high = difference_interval(correct_a, correct_b, population)
    p_value = equality_p_value(correct_a, correct_b, population)
    return replace(compare_paired(correct_a, correct_b), low=low, high=high, p_value=p_value)


def compare_seeds(groups: Sequence[Sequence[Evaluated]]) -> SeedsComparison:
    """Compare groups, each of runs that differ only in the seed, by their means over seeds.

    Args:
        groups: at least one, each of at least one run.

    Raises:
        UserError: the protocols or the test images differ, or no image is shared by all.
    """
    everything = [each for group in groups for each in group]
    correct, shared = shared_correct(everything)
    remaining = iter(correct)
    # For each group, metric to the accuracy of each run.
    values: list[dict[str, list[float]]] = []
    for group in groups:
        runs = [next(remaining) for _ in group]
        values.append({name: [float(run[name].mean()) for run in runs] for name in runs[0]})
    first, notes = groups[0][0], evaluation_notes(everything, shared)
    differences: list[dict[str, MeanDifference]] = []
    for group, accuracies in zip(groups[1:], values[1:], strict=True):
        notes = [*cause_notes(first, group[0], seeds=False), *notes]
        if min(len(groups[0]), len(group)) > 1:
            differences.append({n: welch(each, accuracies[n]) for n, each in values[0].items()})
        else:
            differences.append({})
            notes.append(
                f"{first.name} or {group[0].name} has a single seed: the spread over seeds is "
                "unknown, so their difference has no interval"
            )
    return SeedsComparison(
        notes=tuple(dict.fromkeys(notes)),
        protocol=quoted_protocol(first),
        shared=shared,
        groups=tuple(
            SeedGroup(
                group[0].name,
                tuple(str(each.run["run_id"]) for each in group),
                {name: _of_accuracies(each) for name, each in accuracies.items()},
            )
            for group, accuracies in zip(groups, values, strict=True)
        ),
        differences=tuple(differences),
    )


def _of_accuracies(values: Sequence[float]) -> SeedsSummary:
    """Summarise accuracies over seeds, with the mean's interval clipped to [0, 1]."""
    found = seeds_summary(values)
    low, high = np.clip([found.low, found.high], 0, 1).tolist()
    return replace(found, low=low, high=high)


def correct_by_metric(protocol: Facts, verdicts: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Return which images [N] are still right: clean, after each stage, and after all stages."""
    attacks = protocol["attacks"]
    found = correct_after(verdicts["broken_by"], attacks)
    if attacks:
        found["aa" if protocol["standard"] else "robust"] = found[attacks[-1]]
    return found


def shared_correct(
    several: Sequence[Evaluated],
) -> tuple[list[dict[str, NDArray[np.bool_]]], int]:
    """Return by metric which shared images [M] each gets right, and how many are shared.

    Raises:
        UserError: the protocols differ, no image is shared, or an image has two labels.
    """
    check_protocols(several)
    tables = [each.verdicts.set_index("index") for each in several]
    shared = reduce(lambda a, b: a.intersection(b, sort=False), (t.index for t in tables))
    if "population" in several[0].protocol:
        check_order(several, shared)
    tables = [table.loc[shared] for table in tables]
    if shared.empty:
        raise UserError(
            f"{several[0].name} and {several[-1].name} share no test image: evaluate both on the "
            "same images"
        )
    for each, table in zip(several, tables, strict=True):
        if (table["label"] != tables[0]["label"]).any():
            raise UserError(
                f"the verdicts of {several[0].name} and {each.name} give an image different "
                "labels: one of them is damaged, evaluate it again"
            )
    pairs = zip(several, tables, strict=True)
    return [correct_by_metric(each.protocol, table) for each, table in pairs], len(shared)


def cause_notes(a: Evaluated, b: Evaluated, *, seeds: bool = True) -> list[str]:
    """Note further differences between two runs, which leave their gap without a single cause.

    The intended difference is the method with its parameters if the methods differ, the source of
    a loaded model, or else the one setting that differs. ``seeds`` is whether a seed counts.
    """
    names = f"{a.name} and {b.name}"
    if a.protocol["model_sha256"] == b.protocol["model_sha256"]:
        return [f"{names} are the same weights"]
    if bool(a.run.get("config")) != bool(b.run.get("config")):
        return [
            f"one of {names} was trained here and the other loaded: how their training differs is "
            "not known"
        ]
    found = differences(settings(a.run), settings(b.run))
    if not seeds:
        found.pop("seed", None)
    if set(found) == {"seed"}:
        return [f"{names} differ in the seed only: their difference is random"]
    for subject in ("method", "source"):
        if subject in found:
            del found[subject]
            more = {path: v for path, v in found.items() if not path.startswith("params.")}
            return [f"they differ in more than the {subject}: {_named(more)}"] if more else []
    return [f"they differ in {len(found)} settings: {_named(found)}"] if len(found) > 1 else []


def _named(found: Mapping[str, tuple[Any, Any]]) -> str:
    named = [f"{path} {ours} / {theirs}" for path, (ours, theirs) in found.items()]
    more = len(named) - NAMED_DIFFERENCES
    return ", ".join(named[:NAMED_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")


def evaluation_notes(several: Sequence[Evaluated], shared: int) -> list[str]:
    """Note settings that changed the randomness of the attacks, and images that were left out."""
    notes = []
    for name in RANDOMNESS_FIELDS:
        values = list(dict.fromkeys(each.protocol.get(name) for each in several))
        if len(values) > 1:
            named = " / ".join(map(str, values))
            notes.append(f"the evaluations differ in {name} ({named}), which moves verdicts a bit")
    counts = [len(each.verdicts) for each in several]
    if max(counts) > shared:
        named = ", ".join(map(str, counts))
        notes.append(
            f"they were evaluated on {named} images: the {shared} that they share are compared"
        )
    return notes
