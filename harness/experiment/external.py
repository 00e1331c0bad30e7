"""Load, probe and evaluate external models, stored as runs of kind ``loaded``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from harness import provenance
from harness.config import EvalConfig, fingerprint
from harness.data.base import Dataset, Preparation
from harness.evaluation.attack.executors import ChunkExecutor
from harness.evaluation.attack.protocol import check_protocol
from harness.experiment.record import recorded
from harness.experiment.runner import Outcome, evaluate_into
from harness.models.external.probe import identify
from harness.models.loading import is_function_name, load_external
from harness.models.normalize import Statistics
from harness.progress import Reporter
from harness.store.rundir import RunDirectory
from harness.training.build import choose_device


def evaluate_external(
    source: str,
    data: Dataset,
    evaluation: EvalConfig,
    *,
    arch: str | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    normalize: str | Statistics | None = None,
    **where: Any,
) -> Outcome:
    """Evaluate an external model; see ``load_external`` and ``evaluate_model``.

    Args:
        source: names the model.
        data: the dataset with its test split.
        evaluation: the protocol.
        arch: architecture of a checkpoint file that does not name its own.
        weights: local weights of a zoo model.
        weights_key: the weights to use from a file that holds several.
        normalize: normalisation in front of the model; see ``statistics_of``.
        **where: the keyword arguments of ``evaluate_model``.
    """
    check_protocol(evaluation, data.test)
    model, facts = load_external(
        source,
        dataset_info=data.info,
        arch=arch,
        weights=weights,
        weights_key=weights_key,
        normalize=normalize,
        threat=evaluation.norm,
    )
    if "preparation" in facts:
        data = data.prepared(Preparation(**facts["preparation"]))
    former = None
    if not is_function_name(source):
        former = {"sha256": facts["sha256"], "arch": facts["arch"], "dataset": data.info.name}
        former |= {} if normalize is None else {"normalize": facts["normalize"]}
    return evaluate_model(model, data, evaluation, facts=facts, former=former, **where)


def evaluate_model(
    model: nn.Module,
    data: Dataset,
    evaluation: EvalConfig,
    *,
    facts: dict[str, Any],
    results: Path,
    reporter: Reporter,
    name: str | None = None,
    device: str = "auto",
    executor: ChunkExecutor | None = None,
    former: dict[str, Any] | None = None,
) -> Outcome:
    """Evaluate a model and store it as a run of kind ``loaded``.

    Args:
        model: maps images [B, K, H, W] in [0, 1] to logits [B, C].
        data: the dataset with its test split.
        evaluation: the protocol.
        facts: what is known about the model, for its record.
        results: the results folder.
        reporter: where progress is shown.
        name: the model's name in tables.
        device: where to compute.
        executor: where chunks are attacked; by default ``evaluation.workers`` processes.
        former: the fields that identified the model in releases before 0.2.0.

    Raises:
        UserError: the model or the images cannot be evaluated.
    """
    where = choose_device(device)
    check_protocol(evaluation, data.test)
    for note in facts.get("notes", ()):
        reporter.line(f"note: {note}")
    identity = identify(model, data.info)
    directory = external_directory(results, identity | {"dataset": data.info.name}, former)
    described = {
        "kind": "loaded",
        **({"method_title": name} if name else {}),
        "dataset": data.info.name,
        "arch": facts.get("arch"),
        "source": identity | facts,
        "scale": "small" if data.info.small_scale else "paper",
        "partial": not data.test.complete,
        "provenance": provenance.collect(where),
    }
    with directory.lock(), recorded(directory, described, reporter):
        return evaluate_into(
            directory, model, data.test, evaluation, reporter, where, executor, foreign=True
        )


def external_directory(
    results: Path, identity: dict[str, Any], former: dict[str, Any] | None
) -> RunDirectory:
    """The directory of a loaded model, named after everything that identifies the model.

    A directory that an earlier release named after the file alone is kept, unless the model's
    outputs on the probe images have changed since they were first recorded.
    """
    if former is not None:
        before = RunDirectory(results, f"loaded-{fingerprint(former)}")
        source = (before.record.get("source") or {}) if before.exists else None
        if source is not None and source.get("answers") in (None, identity["answers"]):
            return before
    return RunDirectory.create(results, f"loaded-{fingerprint(identity)}")
