"""Run an evaluation from start to stored verdicts, chunk by chunk; resumable after each chunk."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from harness import provenance
from harness.config import EvalConfig, EvalProtocol
from harness.data.base import ImageSource
from harness.evaluation.analysis.flags import Flag, flags_from_counts
from harness.evaluation.analysis.sequential import confidence_interval
from harness.evaluation.analysis.statistics import accuracy
from harness.evaluation.attack.chunk import read_chunk
from harness.evaluation.attack.executors import ChunkExecutor, local_executor, num_threads
from harness.evaluation.attack.job import Job, chunk_count
from harness.evaluation.attack.protocol import (
    attack_version,
    check_protocol,
    evaluation_id,
    is_standard,
)
from harness.evaluation.forecast import expected
from harness.evaluation.guards import ensure_unchanged, unit_images, untouched
from harness.evaluation.probe import Probe, normalisation, train_mode
from harness.evaluation.progress import for_radius, monotonic
from harness.evaluation.speed.graphs import check_replay
from harness.evaluation.speed.plan import PLAIN, Plan, check_compiles, decide
from harness.evaluation.speed.precision import arithmetic
from harness.progress import ProgressFn, no_progress, part_of
from harness.store.files import DamagedFile
from harness.store.rundir import EvaluationDirectory, RunDirectory, utc_now
from harness.store.verdicts import correct_after, verdicts_digest, write_verdicts

PLANNING_IMAGES = 32
NotifyFn = Callable[[str], None]


def no_notice(text: str) -> None:
    """Ignore the message."""


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation.

    Attributes:
        evaluation_id: its id.
        protocol: how the model was evaluated.
        metrics: metric name to ``value``, ``n``, ``low`` and ``high``.
        verdicts: one row per image.
        stored_at: when an earlier call finished it; None if this call computed it.
    """

    evaluation_id: str
    protocol: EvalProtocol
    metrics: dict[str, dict[str, float]]
    verdicts: pd.DataFrame
    stored_at: str | None = None


def evaluate(
    model: nn.Module,
    images: ImageSource,
    config: EvalConfig,
    run: RunDirectory,
    *,
    device: torch.device,
    executor: ChunkExecutor | None = None,
    progress: ProgressFn = no_progress,
    notify: NotifyFn = no_notice,
    foreign: bool = False,
) -> tuple[EvaluationResult, ...]:
    """Attack a model at each configured radius and store every verdict in the run's directory.

    Chunks that an earlier call finished are reused. A finished evaluation is returned from disk
    unless adversarial images are to be saved as well. The model is left unchanged.

    Args:
        model: maps images [B, K, H, W] in [0, 1] to logits [B, C]; its parameters are float32.
        images: the test split.
        config: the radii and the protocol that they share.
        run: the run the model belongs to.
        device: where to compute.
        executor: where chunks are attacked; by default ``config.workers`` processes.
        progress: called with the share of the work that is done, in [0, 1], and a description of
            the current work.
        notify: called with messages for the user: flags raised before the attacks, and that a
            result was already stored.
        foreign: whether the model is external, so that its normalisation is in doubt.

    Returns:
        One result per radius, in the order of ``config.eps``.

    Raises:
        UserError: the limit exceeds the number of images, the model is not float32, its forward
            pass changes it, or it cannot be compiled, recorded or sent to another process as
            configured.
    """
    check_protocol(config, images)
    executor = executor or local_executor(config.workers, chunk_count(config, images))
    flags = train_mode(model)
    protocols, results, progress = config.protocols(), [], monotonic(progress)
    with untouched(model.to(device)) as model_sha256:
        for number, protocol in enumerate(protocols):
            identity = evaluation_id(
                protocol,
                images.info.num_classes,
                data_sha256=images.sha256,
                model_sha256=model_sha256,
            )
            directory = run.evaluation(identity)
            result = stored_result(directory, protocol)
            enough = is_enough(directory, protocol)
            job = Job(model, model_sha256, images, protocol, PLAIN, directory, device)
            if enough and protocol.order == "random":
                # A finished evaluation that only lacks saved images is repeated as far as it went.
                n = directory.record["protocol"]["n"]
                until = protocol.model_copy(update={"half_width": None, "n_max": n})
                job = replace(job, protocol=until)
            if result is None or not enough or job.lacks_images(len(result.verdicts)):
                with num_threads(executor.threads):
                    job = replace(job, plan=plan_of(job))
                part = for_radius(progress, number, config.eps)
                with _recorded(directory, initial_record(job), finished=result is not None):
                    result = finish(job, executor, flags, part, notify, foreign=foreign)
                result = replace(result, protocol=protocol)
            else:
                notify(f"evaluation {identity} was stored on {result.stored_at} and is reused")
            results.append(result)
    return tuple(results)


def finish(
    job: Job,
    executor: ChunkExecutor,
    flags: Sequence[Flag],
    progress: ProgressFn,
    notify: NotifyFn = no_notice,
    *,
    foreign: bool = False,
) -> EvaluationResult:
    """Probe the model, attack the missing chunks, then store all verdicts and flags.

    Args:
        job: the evaluation.
        executor: where chunks are attacked.
        flags: flags raised before the model was put in eval mode.
        progress: called with the share of this evaluation that is done.
        notify: called with the plan's notes, each flag raised before the attacks, and the
            estimated duration.
        foreign: whether the model is external.
    """
    for note in job.plan.notes if job.plan.is_plain else ():
        notify(f"note: {note}")
    probe = Probe(job)
    early = probe.before_attacks()
    if foreign and (doubt := normalisation(job)):
        early.append(doubt)
    for flag in early:
        notify(f"note: {flag.name}: {flag.detail}")
    with num_threads(executor.threads):
        estimate = expected(job, executor.workers)
    if estimate is not None:
        notify(estimate)
    tables, facts = attack_chunks(job, executor, progress)
    progress(1.0, "")
    verdicts, stages = pa.concat_tables(tables), stage_totals(facts)
    clean_not_finite = sum(chunk["clean_not_finite"] for chunk in facts)
    flags = [
        *flags,
        *early,
        *probe.after_attacks(),
        *flags_from_counts(stages, len(verdicts), clean_not_finite),
    ]
    ensure_unchanged(job.model, job.model_sha256)
    write_verdicts(verdicts, job.directory.verdicts_path)
    metrics = accuracies(verdicts, job.protocol, job.num_classes, len(job.images))
    job.directory.end(
        "success",
        **initial_record(job, len(verdicts)),
        metrics=metrics,
        verdicts_digest=verdicts_digest(verdicts),
        wall_s=sum(chunk["seconds"] for chunk in facts),
        stages=stages,
        adversarial=adversarial_totals(facts),
        flags=[flag._asdict() for flag in flags],
    )
    return EvaluationResult(
        job.directory.evaluation_id, job.protocol, metrics, verdicts.to_pandas()
    )


def attack_chunks(
    job: Job, executor: ChunkExecutor, progress: ProgressFn
) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    """Attack the chunks in order, all of them or until the evaluation may stop.

    Every chunk is read back from its file, so results are the same after an interruption.

    Returns:
        The verdicts and the facts of each chunk used.
    """
    protocol, tables, facts = job.protocol, [], []
    step = job.chunks if protocol.half_width is None else max(1, protocol.workers)
    for start in range(0, job.chunks, step):
        numbers = range(job.chunks)[start : start + step]
        missing = job.missing(numbers)
        finished = numbers[-1] + 1 - len(missing)
        if missing:
            part = part_of(progress, finished, len(missing), job.chunks)
            executor.attack(job, missing, part)
        for number in numbers:
            verdicts, about_chunk = read_chunk(job.directory.chunk_path(number))
            tables.append(verdicts)
            facts.append(about_chunk)
        if protocol.half_width is not None:
            robust = pa.concat_tables(tables)["broken_by"].is_null().to_numpy()
            if is_narrow(confidence_interval(robust, len(job.images)), protocol):
                break
    return tables, facts


def is_narrow(interval: tuple[float, float], protocol: EvalProtocol) -> bool:
    """Whether an interval is as narrow as the protocol requires."""
    low, high = interval
    return protocol.half_width is not None and high - low <= 2 * protocol.half_width


def is_enough(directory: EvaluationDirectory, protocol: EvalProtocol) -> bool:
    """Whether a finished evaluation covers as many images as its protocol now requires.

    Only an evaluation in random order can have too few: an earlier call required less precision.
    """
    record = directory.record if directory.exists else {}
    if protocol.order == "file" or record.get("status") != "success":
        return protocol.order == "file"
    population, robust = record["protocol"]["population"], record["metrics"]["robust"]
    most = min(population, protocol.n_max or population)
    return record["protocol"]["n"] >= most or is_narrow((robust["low"], robust["high"]), protocol)


def stored_result(
    directory: EvaluationDirectory, protocol: EvalProtocol
) -> EvaluationResult | None:
    """Return a finished evaluation's result, or None if it is not finished or is damaged.

    Its chunks are not needed: an evaluation from another results folder has none. Damaged verdicts
    are rebuilt from the chunks that exist; a damaged record is removed.
    """
    try:
        record = directory.record if directory.exists else {}
    except DamagedFile:
        directory.record_path.unlink()
        record = {}
    if record.get("status") != "success":
        return None
    try:
        verdicts = directory.verdicts().to_pandas()
    except DamagedFile:
        return None
    return EvaluationResult(
        directory.evaluation_id, protocol, record["metrics"], verdicts, record.get("finished_at")
    )


def plan_of(job: Job) -> Plan:
    """Return the plan an earlier call stored on this type of device, else that of ``decide``.

    All workers and all resumptions share one plan, so they run the network in the same way.

    Raises:
        UserError: compiling the copy or recording its passes was requested but fails here.
    """
    if not job.protocol.accelerate:
        return PLAIN
    positions = torch.arange(min(PLANNING_IMAGES, len(job.images)))
    sample = unit_images(job.images, positions).to(job.device)
    plan = None
    stored = job.directory.record if job.directory.exists else {}
    if stored.get("planned_on") == job.device.type and stored.get("acceleration"):
        # Ignore a plan from a release with other fields.
        with suppress(KeyError):
            plan = Plan.from_dict(stored["acceleration"])
    if plan is None:
        plan = decide(job.model, sample, job.device, compiled=job.protocol.compile)
        plan = replace(plan, graph_sizes=job.protocol.graph_sizes)
    if plan.compiled:
        check_compiles(job.model, plan, sample)
    if plan.graph_sizes:
        recorded, plain = replace(job, plan=plan), replace(job, plan=replace(plan, graph_sizes=()))
        check_replay(recorded.attacked, plain.attacked, sample)
    return plan


def initial_record(job: Job, n: int | None = None) -> dict[str, Any]:
    """Return the fields that an evaluation's record holds from the start.

    Its ``protocol`` must be quoted with every number of this evaluation.

    Args:
        job: the evaluation.
        n: how many of its images were attacked; by default all.
    """
    protocol, images = job.protocol, job.images
    rows = images.rows[job.positions][:n]
    random = protocol.order == "random"
    return {
        "acceleration": asdict(job.plan),
        "planned_on": job.device.type,
        "protocol": {
            **protocol.identity_payload(),
            "n": len(rows),
            **({"population": len(images)} if random else {}),
            "attack_version": attack_version(protocol, job.num_classes),
            "standard": is_standard(protocol, job.num_classes),
            "index_sha256": hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest(),
            "data_sha256": images.sha256,
            "model_sha256": job.model_sha256,
            "partial": random or protocol.limit is not None or not images.complete,
        },
        "provenance": provenance.collect(job.device),
        "arithmetic": arithmetic(),
    }


def accuracies(
    verdicts: pa.Table, protocol: EvalProtocol, num_classes: int, population: int
) -> dict[str, dict[str, float]]:
    """Accuracy with its 95% interval: clean, after each stage, and after all of them.

    The interval is Wilson's. For images in random order, it is an interval for the accuracy on all
    ``population`` images of the test set, valid at any stopping time. The last accuracy is also
    named ``robust``, and ``aa`` if the attacks are standard AutoAttack.
    """
    by_stage, metrics = correct_after(verdicts["broken_by"].to_pylist(), protocol.attacks), {}
    for stage, correct in by_stage.items():
        metrics[stage] = accuracy(int(correct.sum()), len(correct))
        if protocol.order == "random":
            low, high = confidence_interval(correct, population)
            metrics[stage] |= {"low": low, "high": high}
    metrics["robust"] = metrics[protocol.attacks[-1] if protocol.attacks else "clean"]
    return metrics | ({"aa": metrics["robust"]} if is_standard(protocol, num_classes) else {})


def stage_totals(facts: Sequence[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Sum the facts of each stage over chunks."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for chunk in facts:
        for stage, counts in chunk["stages"].items():
            totals[stage].update(counts)
    return dict(totals)


def adversarial_totals(facts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Summarise the saved adversarial images and the rows that rounding made correct again."""
    kept = [chunk["adversarial"] for chunk in facts if chunk.get("adversarial")]
    if not kept:
        return None
    return {
        "kept": kept[0]["kept"],
        "broken": sum(each["broken"] for each in kept),
        "no_longer_broken": sorted(row for each in kept for row in each["no_longer_broken"]),
    }


@contextmanager
def _recorded(
    directory: EvaluationDirectory, described: dict[str, Any], *, finished: bool
) -> Iterator[None]:
    """Record that the evaluation started, and whether it failed; ``finish`` records its success.

    A finished evaluation that is repeated to save its images stays finished, whatever happens.
    """
    if not finished:
        began = {"status": "started", "started_at": utc_now(), "finished_at": None, "error": None}
        directory.update(**began, **described)
    try:
        yield
    except BaseException as error:
        if not finished and isinstance(error, KeyboardInterrupt):
            directory.end("cancelled")
        elif not finished:
            directory.end("error", error=type(error).__name__)
        raise
