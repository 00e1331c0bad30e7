"""An evaluation from start to stored verdicts, chunk by chunk, resumable after each chunk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from harness import provenance
from harness.config import EvalConfig
from harness.data.base import ImageSource
from harness.errors import UserError
from harness.evaluation.accelerate import PLAIN, accelerated
from harness.evaluation.batching import Batching
from harness.evaluation.chunk import Attacker, Chunk
from harness.evaluation.chunk_files import Expected, finished, read_chunk, write_chunk
from harness.evaluation.flags import PROBE_IMAGES, counted, modules_in_training, probe, train_mode
from harness.evaluation.forward import AttackModel
from harness.evaluation.guards import own_random_state, unit_images, untouched
from harness.evaluation.precision import pinned
from harness.evaluation.protocol import (
    Threat,
    attack_version,
    chunk_seed,
    evaluation_id,
    is_standard,
)
from harness.evaluation.statistics import wilson_interval
from harness.store.rundir import EvaluationDirectory, RunDirectory
from harness.store.verdicts import write_verdicts

Say = Callable[[float, str], None]


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
    say: Say = lambda share, note: None,
) -> EvaluationResult:
    """Attack a model by a protocol and store every verdict in the run's directory.

    Chunks that an earlier call finished are kept. The model is left as it was.

    Args:
        model: maps images [B, K, H, W] in [0, 1] to logits [B, C]; its parameters are float32.
        images: the test split.
        config: the protocol.
        run: whose model it is.
        device: where to compute.
        say: is told the share of the work that is done, in [0, 1], and what is being done.

    Raises:
        UserError: more images are asked for than there are, or the model is not float32.
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
        directory.update(
            status="started",
            started_at=_now(),
            protocol=protocol(config, threat, images, model_sha256),
            provenance=provenance.collect(device),
            error=None,
        )
        try:
            verdicts, facts = _attack_chunks(model, images, config, threat, directory, device, say)
            write_verdicts(verdicts, directory.verdicts_path)
            flags = _flags(model, images, config, threat, device, facts, in_training)
        except BaseException as error:
            directory.update(status="error", finished_at=_now(), error=f"{type(error).__name__}")
            raise
        metrics = accuracies(verdicts, config, threat)
        directory.update(
            status="success",
            finished_at=_now(),
            metrics=metrics,
            wall_s=sum(chunk["seconds"] for chunk in facts),
            stages=stage_totals(facts),
            acceleration=facts[0]["acceleration"],
            flags=flags,
        )
    return EvaluationResult(identity, metrics, verdicts.to_pandas())


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
            total = totals.setdefault(stage, dict.fromkeys(counts, 0))
            for name, count in counts.items():
                total[name] += count
    return totals


def _attack_chunks(
    model: nn.Module,
    images: ImageSource,
    config: EvalConfig,
    threat: Threat,
    directory: EvaluationDirectory,
    device: torch.device,
    say: Say,
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Finish every chunk; all verdicts, and the chunks' facts, in order."""
    positions = torch.arange(len(images))[: config.limit].split(config.chunk_size)
    attacker, acceleration = _attacker(model, images, config, threat, device)
    for number, part in enumerate(positions):
        expected = Expected(
            directory.evaluation_id,
            number,
            images.rows[part],
            images.labels[part],
            config.save_adversarial,
        )
        path = directory.chunk_path(number)

        def tell(share: float, note: str, number: int = number) -> None:
            say((number + share) / len(positions), note)

        if finished(path, expected):
            tell(1.0, "")
            continue
        chunk = Chunk(
            number,
            chunk_seed(config.seed, number),
            expected.rows,
            expected.labels,
            unit_images(images, part),
        )
        began = time.perf_counter()
        with own_random_state(device):
            outcome = attacker.run(chunk, tell)
        facts = {
            "evaluation_id": directory.evaluation_id,
            "chunk": number,
            "seconds": time.perf_counter() - began,
            "acceleration": acceleration,
            **outcome.facts(),
        }
        write_chunk(path, outcome.verdicts, facts, None)
    chunks = [read_chunk(directory.chunk_path(number)) for number in range(len(positions))]
    return pa.concat_tables([table for table, _ in chunks]), [facts for _, facts in chunks]


def _attacker(
    model: nn.Module, images: ImageSource, config: EvalConfig, threat: Threat, device: torch.device
) -> tuple[Attacker, dict[str, Any]]:
    network, plan = model, PLAIN
    if config.accelerate:
        sample = unit_images(images, torch.arange(min(16, len(images)))).to(device)
        network, plan = accelerated(model, sample, device)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    attacked = AttackModel(
        network,
        threat.num_classes,
        Batching(limit=config.device_batch, tile=plan.tile),
        layout=layout,
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
    )
    judge_batching = Batching(limit=config.device_batch)

    def judge(x: Tensor) -> Tensor:
        pieces = judge_batching.pieces(len(x))
        return torch.cat([model(x[start:stop]) for start, stop in pieces])

    attacker = Attacker(
        attacked,
        judge,
        threat,
        config.attacks,
        device,
        attacking=lambda: pinned("reference"),
        judging=lambda: pinned("strict"),
    )
    return attacker, plan.as_dict()


def _flags(
    model: nn.Module,
    images: ImageSource,
    config: EvalConfig,
    threat: Threat,
    device: torch.device,
    facts: list[dict[str, Any]],
    in_training: list[str],
) -> list[dict[str, str]]:
    """What makes the numbers doubtful, as records store it."""
    n = len(images.rows[: config.limit])
    positions = torch.arange(min(PROBE_IMAGES, n))
    x = unit_images(images, positions).to(device)
    attacked = AttackModel(model, threat.num_classes, Batching(limit=config.device_batch))
    found = probe(
        model,
        attacked,
        x,
        images.labels[positions].to(device),
        threat,
        attacks=bool(config.attacks),
        pinned=lambda: pinned("reference"),
    )
    clean = sum(int(chunk["clean_not_finite"]) for chunk in facts)
    found += counted(stage_totals(facts), n, clean)
    handed = train_mode(in_training)
    return [flag.as_dict() for flag in ([handed] if handed else []) + found]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
