"""An evaluation from start to stored verdicts, chunk by chunk, resumable after each chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from harness import provenance
from harness.config import EvalConfig
from harness.data.base import ImageSource
from harness.errors import UserError
from harness.evaluation.analysis.curves import mark
from harness.evaluation.analysis.flags import flags_of, modules_in_training
from harness.evaluation.analysis.statistics import wilson_interval
from harness.evaluation.attack.chunk import ProgressFn
from harness.evaluation.attack.chunk_files import read_chunk
from harness.evaluation.attack.job import Work, worker_count
from harness.evaluation.attack.protocol import (
    Threat,
    attack_version,
    evaluation_id,
    is_standard,
    passes,
)
from harness.evaluation.attack.workers import (
    attack_in_workers,
    elsewhere,
    threads_each,
    with_threads,
)
from harness.evaluation.guards import ensure_unchanged, unit_images, untouched
from harness.evaluation.speed.compiling import Passes, must_compile
from harness.evaluation.speed.plan import PLAIN, Plan, apply, decide
from harness.evaluation.speed.precision import arithmetic
from harness.store.rundir import EvaluationDirectory, RunDirectory, utc_now
from harness.store.verdicts import verdicts_digest, write_verdicts

# The share of images that are attacked to the end, by which work is estimated.
SURVIVING = 0.3


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation: its id, its metrics by name, and one verdict an image."""

    evaluation_id: str
    metrics: dict[str, dict[str, float]]
    verdicts: pd.DataFrame


def evaluate(
    model: nn.Module,
    images: ImageSource,
    config: EvalConfig,
    run: RunDirectory,
    *,
    device: torch.device,
    say: ProgressFn = lambda share, note: None,
) -> EvaluationResult:
    """Attack a model by a protocol and store every verdict in the run's directory.

    Chunks that an earlier call finished are kept, and a finished evaluation is returned as it is
    stored, unless adversarial images are wanted as well. The model is left as it was.

    Args:
        model: maps images [B, K, H, W] in [0, 1] to logits [B, C]; its parameters are float32.
        images: the test split.
        config: the protocol.
        run: whose model it is.
        device: where to compute.
        say: is told the share of the work that is done, in [0, 1], and what is being done.

    Raises:
        UserError: more images are asked for than there are, the model is not float32, or its
            forward pass changes it.
    """
    if config.limit is not None and config.limit > len(images):
        raise UserError(
            f"evaluation.limit is {config.limit}, but {images.info.name} has {len(images)} test "
            f"images: ask for at most {len(images)}"
        )
    threat = Threat(config.norm, config.eps, images.info.num_classes)
    in_training = modules_in_training(model)
    with untouched(model.to(device)) as model_sha256:
        identity = evaluation_id(
            config, threat, data_sha256=images.sha256, model_sha256=model_sha256
        )
        directory = run.evaluation(identity)
        stored = stored_result(directory)
        if stored is not None and config.save_adversarial == "no":
            mark(run, identity, images.info)
            return stored
        plan = planned(model, images, config, threat, directory, device)
        about = {
            "acceleration": plan.as_dict(),
            "planned_on": device.type,
            "protocol": protocol(config, threat, images, model_sha256),
            "provenance": provenance.collect(device),
            "arithmetic": arithmetic(),
        }
        work = Work(model, model_sha256, images, config, threat, plan, directory)
        with _recorded(directory, about, finished=stored is not None):
            verdicts, facts = _attack_chunks(work, device, say)
            flags = flags_of(work, device, stage_totals(facts), facts, in_training)
            ensure_unchanged(model, model_sha256)
            write_verdicts(verdicts, directory.verdicts_path)
    metrics = accuracies(verdicts, config, threat)
    directory.end(
        "success",
        **about,
        metrics=metrics,
        verdicts_digest=verdicts_digest(verdicts),
        wall_s=sum(chunk["seconds"] for chunk in facts),
        stages=stage_totals(facts),
        adversarial=adversarial_totals(facts),
        flags=[flag.as_dict() for flag in flags],
    )
    mark(run, identity, images.info)
    return EvaluationResult(identity, metrics, verdicts.to_pandas())


def stored_result(directory: EvaluationDirectory) -> EvaluationResult | None:
    """What a finished evaluation found; None where it is not finished or its verdicts are damaged.

    Its chunks need not be there: what came from another results folder has none.
    """
    record = directory.record if directory.exists else {}
    if record.get("status") != "success":
        return None
    try:
        verdicts = directory.verdicts()
    except UserError:
        # They are made anew, from the chunks that are there.
        return None
    if verdicts_digest(verdicts) != record.get("verdicts_digest"):
        return None
    return EvaluationResult(directory.evaluation_id, record["metrics"], verdicts.to_pandas())


@contextmanager
def _recorded(
    directory: EvaluationDirectory, about: dict[str, Any], *, finished: bool
) -> Iterator[None]:
    """The record follows what happens inside, but for success, which ``evaluate`` writes.

    A finished evaluation whose images are wanted as well stays one, whatever becomes of that.
    """
    if not finished:
        began = {"status": "started", "started_at": utc_now(), "finished_at": None, "error": None}
        directory.update(**began, **about)
    try:
        yield
    except BaseException as error:
        if finished:
            raise
        if isinstance(error, KeyboardInterrupt):
            directory.end("cancelled")
        else:
            directory.end("error", error=f"{type(error).__name__}")
        raise


def protocol(
    config: EvalConfig, threat: Threat, images: ImageSource, model_sha256: str
) -> dict[str, Any]:
    """What a number of this evaluation must be quoted with."""
    rows = images.rows[: config.limit]
    return {
        **config.identity_payload(),
        "n": len(rows),
        "attack_version": attack_version(config.attacks, threat),
        "standard": is_standard(config, threat),
        "index_sha256": hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest(),
        "data_sha256": images.sha256,
        "model_sha256": model_sha256,
        "partial": config.limit is not None or not images.complete,
    }


def accuracies(
    verdicts: pa.Table, config: EvalConfig, threat: Threat
) -> dict[str, dict[str, float]]:
    """Accuracy with its 95% Wilson interval: clean, after each stage, and after all of them.

    What survives all is ``robust``; only where the attacks are the standard ones is it also ``aa``.
    """
    broken_by = verdicts["broken_by"].to_pylist()
    n, alive = len(broken_by), len(broken_by)
    metrics = {}
    for stage in ("clean", *config.attacks):
        alive -= broken_by.count(stage)
        low, high = wilson_interval(alive, n)
        metrics[stage] = {"value": alive / n, "n": n, "low": low, "high": high}
    metrics["robust"] = metrics[config.attacks[-1] if config.attacks else "clean"]
    return metrics | ({"aa": metrics["robust"]} if is_standard(config, threat) else {})


def stage_totals(facts: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The facts of each stage added up over chunks."""
    totals: dict[str, dict[str, float]] = {}
    for chunk in facts:
        for stage, counts in chunk["stages"].items():
            total = totals.setdefault(stage, {})
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
    return totals


def adversarial_totals(facts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What was kept of adversarial images, and the rows that rounding to eight bits mended."""
    kept = [chunk["adversarial"] for chunk in facts if chunk.get("adversarial")]
    if not kept:
        return None
    return {
        "kept": kept[0]["kept"],
        "broken": sum(each["broken"] for each in kept),
        "no_longer_broken": sorted(row for each in kept for row in each["no_longer_broken"]),
    }


def planned(
    model: nn.Module,
    images: ImageSource,
    config: EvalConfig,
    threat: Threat,
    directory: EvaluationDirectory,
    device: torch.device,
) -> Plan:
    """How the attacked copy is run: as an earlier call on such a device decided, else decided now.

    One plan holds for all workers and all resumptions, so that none runs the network otherwise.

    Raises:
        UserError: an earlier call compiled the network, which cannot be done here.
    """
    if not config.accelerate:
        return PLAIN
    sample = unit_images(images, torch.arange(min(32, len(images)))).to(device)
    stored = directory.record if directory.exists else {}
    if stored.get("planned_on") == device.type and stored.get("acceleration"):
        plan = None
        # A plan of another release, with other fields, is decided anew.
        with suppress(TypeError, KeyError):
            plan = Plan.from_dict(stored["acceleration"])
        if plan is not None:
            if plan.compiled:
                must_compile(apply(model, plan), plan.laid_out(sample))
            return plan
    with with_threads(threads_each(worker_count(config, images))):
        return decide(model, sample, device, expected(config, threat, images))


def expected(config: EvalConfig, threat: Threat, images: ImageSource) -> Passes | None:
    """The work ahead of each process, if so many images survive as often do.

    None where chunks go to other machines, which would compile for each of them.
    """
    if elsewhere() is not None or config.precision != "float32":
        return None
    attacked = SURVIVING * (config.limit or len(images)) / worker_count(config, images)
    costs = [passes(stage, threat) for stage in config.attacks]
    backward = sum(back for _, back in costs)
    return Passes(attacked * (sum(fore for fore, _ in costs) - backward), attacked * backward)


def _attack_chunks(
    work: Work, device: torch.device, say: ProgressFn
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Finish every chunk; all verdicts, and the chunks' facts, in order."""
    missing = work.missing()
    workers = worker_count(work.config, work.images)
    away = elsewhere()
    if missing and away is not None:
        away.attack(work, missing, device, say)
    elif min(workers, len(missing)) > 1:
        attack_in_workers(work, missing, device, workers, say)
    elif missing:
        with with_threads(threads_each(workers)):
            _attack_here(work, missing, device, say)
    say(1.0, "")
    paths = [work.directory.chunk_path(number) for number in range(work.chunks)]
    chunks = [read_chunk(path) for path in paths]
    return pa.concat_tables([table for table, _ in chunks]), [facts for _, facts in chunks]


def _attack_here(work: Work, missing: list[int], device: torch.device, say: ProgressFn) -> None:
    attacker = work.attacker(device)
    for done, number in enumerate(missing, work.chunks - len(missing)):

        def tell(share: float, note: str, done: int = done) -> None:
            say((done + share) / work.chunks, note)

        work.attack(number, attacker, tell)
