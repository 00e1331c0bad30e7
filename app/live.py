"""What a running run is doing, read from its directory, which is ahead of the database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.labels import stage_title
from harness.config import STANDARD_ATTACKS, eps_text
from harness.errors import UserError
from harness.progress import duration
from harness.store.files import read_json
from harness.store.rundir import RunDirectory

# A step or a stage of a large network on a CPU may take minutes.
SILENT_S = 600.0
_STAGES = re.compile("|".join(STANDARD_ATTACKS))
# Fields of an epoch's record, with their names and formats.
EPOCH_FACTS = {
    "lr": ("learning rate", "{:.4g}"),
    "eps": ("eps", ""),
    "clean_val": ("clean, validation", "{:.1%}"),
    "pgd_val": ("under PGD, validation", "{:.1%}"),
    "sec_per_iter": ("s/iter", "{:.3g}"),
}


@dataclass(frozen=True)
class Live:
    """A run's current work.

    Attributes:
        work: ``training`` or ``evaluation``; empty if unknown.
        note: which epoch, or which attack.
        share: finished share of the work, in [0, 1]; None if unknown.
        left_s: estimated seconds to the end of the work; None if unknown.
        silent_s: seconds since its last update.
    """

    work: str
    note: str
    share: float | None
    left_s: float | None
    silent_s: float

    @property
    def is_silent(self) -> bool:
        """Whether the process has probably ended without recording it."""
        return self.silent_s > SILENT_S


def live(results: Path, run_id: str) -> Live | None:
    """What the run is doing, or None if its directory has no progress and no record."""
    run = RunDirectory(results, run_id)
    facts: Mapping[str, Any] = {}
    try:
        read = read_json(run.progress_path)
        updated = datetime.fromisoformat(read["at"])
        silent: float | None = (datetime.now(UTC) - updated).total_seconds()
        facts = read
    except (UserError, KeyError, TypeError, ValueError):
        silent = _since_written(run)
    if silent is None:
        return None
    return Live(
        str(facts.get("work", "")),
        str(facts.get("note", "")),
        facts.get("share"),
        facts.get("left_s"),
        max(0.0, silent),
    )


def _since_written(run: RunDirectory) -> float | None:
    """Seconds since the run's record or epochs were written; None if neither exists."""
    try:
        paths = [path for path in (run.record_path, run.epochs_path) if path.exists()]
        times = [path.stat().st_mtime for path in paths]
    except OSError:
        return None
    return datetime.now(UTC).timestamp() - max(times) if times else None


def sentence(now: Live | None, epochs_done: int, epochs_planned: int | None) -> str:
    """What a run is doing, such as ``attacking: Square, 88 images left, 63%, about 3 min left``."""
    done = f"epoch {epochs_done} of {epochs_planned}" if epochs_planned else f"epoch {epochs_done}"
    if now is None:
        return f"{done} done; its run directory is not here"
    if now.is_silent:
        return (
            f"{done} done; no update for {duration(now.silent_s)}: its process has probably ended"
        )
    if not now.work:
        return f"{done} done"
    parts = [_doing(now, epochs_planned)]
    parts += [f"{now.share:.0%}"] if now.share is not None else []
    parts += [f"about {duration(now.left_s)} left"] if now.left_s is not None else []
    return ", ".join(part for part in parts if part)


def _doing(now: Live, epochs_planned: int | None) -> str:
    if now.work == "training":
        found = re.fullmatch(r"epoch (\d+)/(\d+)", now.note)
        return f"training: epoch {found[1]} of {found[2]}" if found else "training"
    note = _STAGES.sub(lambda stage: stage_title(stage[0]), now.note)
    return f"attacking: {note}" if note else "evaluating"


def epoch_facts(record: Mapping[str, Any]) -> str:
    """An epoch's numbers in one line: the loss with its parts, then the settings."""
    parts = ", ".join(f"{name} {value:.4g}" for name, value in (record.get("parts") or {}).items())
    texts = [f"loss {record['loss']:.4g}" + (f" ({parts})" if parts else "")]
    for name, (title, form) in EPOCH_FACTS.items():
        value = record.get(name)
        if value is not None and value == value:
            texts.append(f"{title} {eps_text(value) if name == 'eps' else form.format(value)}")
    return ", ".join(texts)
