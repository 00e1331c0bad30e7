"""The fields that the JSON files of runs and evaluations must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.store.files import DamagedFile


class Facts(BaseModel):
    """The fields of a record that readers rely on; it may have more."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Started(Facts):
    """Fields of a run or an evaluation, whatever its status."""

    status: str
    started_at: str | None = None
    finished_at: str | None = None
    wall_s: float | None = None
    error: str | None = None
    protocol: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None


class StartedRun(Started):
    """Fields of a run, whatever its status."""

    dataset: str | None = None
    method: str | None = None
    arch: str | None = None
    recipe: str | None = None
    recipe_changes: dict[str, Any] | None = None
    seed: int | None = None
    config: dict[str, Any] | None = None
    source: dict[str, Any] | None = None


class FinishedRun(StartedRun):
    """Fields of a run with status success."""

    dataset: str


class Protocol(Facts):
    """The protocol of an evaluation."""

    norm: str
    eps: float
    attacks: list[str]
    n: int = Field(gt=0)
    precision: str
    attack_version: str
    standard: bool
    data_sha256: str
    model_sha256: str


class Metric(Facts):
    """An accuracy."""

    value: float = Field(ge=0, le=1)


class FinishedEvaluation(Started):
    """Fields of an evaluation with status success."""

    finished_at: str
    protocol: Protocol  # type: ignore[assignment]
    metrics: dict[str, Metric]

    @model_validator(mode="after")
    def _has_all_accuracies(self) -> Self:
        missing = {"clean", "robust", *self.protocol.attacks} - set(self.metrics)
        if missing:
            raise ValueError(f"metrics lack {', '.join(sorted(missing))}")
        return self


def check_facts(record: dict[str, Any], facts: type[Facts], path: Path) -> None:
    """Check a record that was read from ``path``.

    Raises:
        DamagedFile: a field is missing or invalid; the message names it.
    """
    try:
        facts.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "a field"
        raise DamagedFile(
            f"{where} in {path} is missing or not valid ({first['msg']}): restore the file, or "
            "move its folder away"
        ) from error
