"""Select the stored runs and evaluations that `compare` compares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import eps_text, parse_fraction
from harness.errors import UserError
from harness.evaluation.analysis.comparable import Evaluated, by_one_protocol, differences, settings
from harness.evaluation.analysis.paired import Comparison, SeedsComparison, compare, compare_seeds
from harness.registry import METHODS, unknown_name
from harness.store.ingest import seed_group
from harness.store.rundir import EvaluationDirectory, RunDirectory, find_run, list_runs

Compared = list[Comparison] | SeedsComparison


def compare_runs(
    results: Path, sources: Sequence[str], *, norm: str | None, eps: str | None
) -> Compared:
    """Compare stored runs: two image by image, several each with the first, or over seeds.

    Args:
        results: the results folder.
        sources: ``RUN`` or ``RUN@EVALUATION``.
        norm: only evaluations in this norm.
        eps: only evaluations at this radius.

    Raises:
        UserError: a run is unknown or not evaluated, or the runs have no protocol in common.
    """
    if len(sources) < 2:
        raise UserError(
            "one run cannot be compared: give two or more, or --method-a and --method-b"
        )
    chosen = choose([finished(results, source, norm, eps) for source in sources])
    _refuse_repeated("run", [each.run["run_id"] for each in chosen] if len(chosen) > 2 else ())
    groups: dict[str, list[Evaluated]] = defaultdict(list)
    for evaluated in chosen:
        groups[_group(evaluated.run)].append(evaluated)
    if len(chosen) == 2 or len(groups) == len(chosen):
        return [compare(chosen[0], other) for other in chosen[1:]]
    return compare_seeds(list(groups.values()))


def compare_methods(
    results: Path, methods: Sequence[str], *, dataset: str | None, norm: str | None, eps: str | None
) -> SeedsComparison:
    """Compare methods over the seeds of their finished runs; notes name the damaged runs.

    Raises:
        UserError: a method has no finished runs, or its runs differ in more than the seed.
    """
    _refuse_repeated("method", methods)
    groups = [_runs_of(results, method, dataset) for method in methods]
    chosen = iter(choose([_fitting(run, "", norm, eps) for group in groups for run in group]))
    comparison = compare_seeds([[next(chosen) for _ in group] for group in groups])
    left_out = [f"left out: {run.damage}" for run in list_runs(results) if run.damage]
    return replace(comparison, notes=(*comparison.notes, *left_out))


def _refuse_repeated(what: str, names: Sequence[str]) -> None:
    """Refuse a name that is given twice, which would count as independent evidence."""
    repeated = next((name for name in names if list(names).count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"the {what} {repeated} is given more than once: name each {what} once")


def finished(
    results: Path, source: str, norm: str | None, eps: str | None
) -> list[EvaluationDirectory]:
    """Return the matching finished evaluations of a run, newest first.

    Raises:
        UserError: none matches; the message lists the run's finished evaluations.
    """
    name, _, evaluation = source.partition("@")
    return _fitting(find_run(results, name), evaluation, norm, eps)


def _fitting(
    run: RunDirectory, evaluation: str, norm: str | None, eps: str | None
) -> list[EvaluationDirectory]:
    done = run.finished_evaluations()
    known = sorted(done, key=lambda e: str(e.record["finished_at"]), reverse=True)
    fitting = [
        each
        for each in known
        if each.evaluation_id.startswith(evaluation) and _fits(each, norm, eps)
    ]
    if not fitting:
        held = "; ".join(f"{each.evaluation_id} ({threat(each)})" for each in known) or "none"
        raise UserError(
            f"run {run.run_id} has no such finished evaluation (it has: {held}): create one with "
            f"`evaluate {run.run_id}`"
        )
    return fitting


def choose(several: Sequence[Sequence[EvaluationDirectory]]) -> list[Evaluated]:
    """Pick one evaluation of each run with ``by_one_protocol``.

    Raises:
        UserError: the runs have no protocol in common.
    """
    chosen = by_one_protocol(several, lambda evaluation: evaluation.record["protocol"])
    if chosen is None:
        held = "; ".join(
            f"{found[0].run.run_id}: {', '.join(map(threat, found))}" for found in several
        )
        raise UserError(
            f"the runs share no protocol ({held}): evaluate them by one protocol on one test set "
            "with `evaluate RUN`"
        )
    return [evaluated(each) for each in chosen]


def evaluated(evaluation: EvaluationDirectory) -> Evaluated:
    """Load a finished evaluation for comparison."""
    return Evaluated(
        evaluation.run.record,
        evaluation.evaluation_id,
        evaluation.record["protocol"],
        evaluation.verdicts().to_pandas(),
    )


def threat(evaluation: EvaluationDirectory) -> str:
    """Describe an evaluation's protocol in a few words."""
    protocol = evaluation.record["protocol"]
    n = protocol["n"]
    if not protocol["attacks"]:
        return f"clean, n = {n:,}"
    radius = eps_text(protocol["eps"])
    return f"{protocol['norm']} {radius}, {protocol['attack_version']}, n = {n:,}"


def _fits(evaluation: EvaluationDirectory, norm: str | None, eps: str | None) -> bool:
    protocol = evaluation.record["protocol"]
    if norm is not None and protocol["norm"] != norm:
        return False
    if eps is None:
        return True
    try:
        radius = float(parse_fraction(eps))
    except ValueError as error:
        raise UserError(f"--eps {eps!r} is not a radius: give one such as 8/255 or 0.5") from error
    return abs(float(protocol["eps"]) - radius) < 1e-9


def _runs_of(results: Path, method: str, dataset: str | None) -> list[RunDirectory]:
    """Return a method's finished, evaluated runs, which differ only in the seed."""
    runs = [
        run
        for run in list_runs(results)
        if run.damage is None
        and (record := run.record).get("method") == method
        and record["status"] == "success"
        and dataset in (None, record["dataset"])
        and run.finished_evaluations()
    ]
    if not runs:
        if method not in METHODS:
            raise UserError(unknown_name("method", method, METHODS.names()))
        where = f" on {dataset}" if dataset else ""
        raise UserError(f"no evaluated run of {method!r}{where} exists in {results}: run it first")
    groups: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        groups[_group(run.record)].append(run.run_id)
    if len(groups) > 1:
        named = "; ".join(" ".join(names) for names in groups.values())
        several = [settings(run.record) for run in runs]
        paths = {path for other in several for path in differences(several[0], other)} - {"seed"}
        raise UserError(
            f"the runs of {method!r} differ in {', '.join(sorted(paths))} ({named}): name the runs "
            "to compare"
        )
    return runs


def _group(record: Mapping[str, Any]) -> str:
    return seed_group(record.get("config") or record.get("source") or record["run_id"])
