"""Run directories: one folder per run, from which everything else can be rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from harness.config import EvalConfig
from harness.errors import UserError
from harness.registry import nearest
from harness.store.files import (
    DamagedFile,
    append_jsonl,
    append_text,
    file_lock,
    make_folder,
    read_json,
    read_jsonl,
    remove_leftovers,
    write_json_atomic,
    write_jsonl_atomic,
)
from harness.store.records import (
    Facts,
    FinishedEvaluation,
    FinishedRun,
    Started,
    StartedRun,
    check_facts,
)
from harness.store.text import all_printable, counted
from harness.store.verdicts import read_verdicts

RECORD_VERSION = 1
RUNS_FOLDER = "runs"
WEIGHTS_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")


class _Record:
    """A folder described by one JSON file, which each update replaces atomically."""

    started: type[Facts] = Started
    finished: type[Facts] = Started

    def __init__(self, path: Path, record_path: Path, identity: dict[str, str]) -> None:
        self.path = path
        self.record_path = record_path
        self._identity = identity

    @property
    def exists(self) -> bool:
        """Whether the JSON file exists."""
        return self.record_path.exists()

    @property
    def record(self) -> dict[str, Any]:
        """The JSON file's content; terminal control characters are escaped.

        Raises:
            DamagedFile: the file is not a record, or a field is missing or invalid.
            UserError: the file cannot be read, or belongs to another release or another folder.
        """
        record: Any = all_printable(read_json(self.record_path))
        if not isinstance(record, dict):
            raise DamagedFile(
                f"{self.record_path} holds no JSON object: restore it, or move its folder away"
            )
        if record.get("schema_version") != RECORD_VERSION:
            raise UserError(
                f"{self.record_path} has schema_version {record.get('schema_version')!r}, but this "
                f"release reads {RECORD_VERSION}: update divergence-bench"
            )
        for name, value in self._identity.items():
            if record.get(name) != value:
                raise UserError(
                    f"{self.record_path} has {name} {record.get(name)!r} but is in the folder of "
                    f"{value!r}: rename the folder back"
                )
        facts = self.finished if record.get("status") == "success" else self.started
        check_facts(record, facts, self.record_path)
        return record

    @property
    def damage(self) -> str | None:
        """Why the record cannot be used; None if it can."""
        try:
            _ = self.record
        except UserError as error:
            return str(error)
        return None

    def update(self, **fields: Any) -> None:
        """Set fields of the record, which is created with status ``started`` if it is missing."""
        new = {"schema_version": RECORD_VERSION, **self._identity, "status": "started"}
        record = self.record if self.exists else new
        write_json_atomic(record | fields, self.record_path)

    def end(self, status: str, **fields: Any) -> None:
        """Set the final status and the finish time, which is never earlier than the start."""
        now = utc_now()
        started = (self.record.get("started_at") if self.exists else None) or now
        self.update(status=status, finished_at=max(now, started), **fields)


class EvaluationDirectory(_Record):
    """One evaluation of a run: its record, its finished chunks and all verdicts."""

    finished = FinishedEvaluation

    def __init__(self, run: RunDirectory, evaluation_id: str) -> None:
        """Refer to an evaluation; nothing is written."""
        path = run.evaluations_path / _checked_name(evaluation_id, "evaluation")
        identity = {"evaluation_id": evaluation_id, "run_id": run.run_id}
        super().__init__(path, path / "evaluation.json", identity)
        self.run = run
        self.evaluation_id = evaluation_id
        self.chunks_path = path / "chunks"
        self.verdicts_path = path / "verdicts.parquet"

    def chunk_path(self, number: int) -> Path:
        """The file of the verdicts of a chunk (from 0)."""
        return self.chunks_path / f"{number:05d}.parquet"

    def finished_chunks(self) -> list[int]:
        """The numbers of the chunks with verdicts on disk, ascending."""
        return sorted(int(path.stem) for path in self.chunks_path.glob("[0-9]*.parquet"))

    def saved_images(self) -> int:
        """The number of chunks with saved adversarial images on disk."""
        return len(list(self.chunks_path.glob("*.adversarial.npy")))

    def verdicts(self) -> pa.Table:
        """The verdicts of the finished evaluation, checked against its record.

        All code reads verdicts here or from the database, which got them from here.

        Raises:
            UserError: they or the record are missing or damaged.
        """
        return read_verdicts(self.verdicts_path, self.record)


class RunDirectory(_Record):
    """The folder of one run.

    Args:
        results: the results folder; runs are in its folder ``runs``.
        run_id: the run's name.
    """

    started = StartedRun
    finished = FinishedRun

    def __init__(self, results: Path, run_id: str) -> None:
        """Refer to a run; nothing is written."""
        path = results / RUNS_FOLDER / _checked_name(run_id, "run")
        super().__init__(path, path / "run.json", {"run_id": run_id})
        self.results = results
        self.run_id = run_id
        self.epochs_path = path / "epochs.jsonl"
        self.log_path = path / "log.txt"
        # What the process that works on the run is doing; written by the engine only.
        self.progress_path = path / "progress.json"
        self.checkpoint_path = path / "checkpoints" / "last.pt"
        self.model_path = path / "model.pt"
        self.evaluations_path = path / "evaluations"

    @classmethod
    def create(cls, results: Path, run_id: str) -> RunDirectory:
        """Create the folder if it is missing; ``update`` writes its record."""
        directory = cls(results, run_id)
        make_folder(directory.path)
        return directory

    @property
    def trained_model(self) -> Path:
        """The model file; ``UserError`` if training is not finished or the file is missing."""
        if self.model_path.exists():
            return self.model_path
        if self.finished_evaluations():
            raise UserError(
                f"run {self.run_id} has finished evaluations, but {self.model_path} is missing: "
                "`db merge` the results folder that has it, or train it again in another results "
                "folder or with --fresh"
            )
        raise UserError(f"run {self.run_id} has no trained model yet: finish it with `run`")

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Be the only process working on the run, and remove temporary files of dead processes.

        Args:
            wait: wait for another process to finish instead of raising.

        Raises:
            UserError: another process works on the run.
        """
        busy = (
            f"another process is working on run {self.run_id}: wait until it has finished, or stop "
            "it, and repeat the command"
        )
        with file_lock(self.path / "run.lock", wait_s=-1 if wait else 0, busy=busy):
            remove_leftovers(self.path)
            yield

    def append_epoch(self, record: dict[str, Any]) -> None:
        """Append the record of a finished epoch, with its number in ``epoch``."""
        append_jsonl(record, self.epochs_path)

    def epochs(self) -> list[dict[str, Any]]:
        """The records of the finished epochs, in order."""
        return read_jsonl(self.epochs_path)

    def truncate_epochs(self, after: int) -> None:
        """Drop the records of epochs later than ``after``, which will be trained again."""
        records = self.epochs()
        kept = [record for record in records if record["epoch"] <= after]
        if len(kept) < len(records):
            write_jsonl_atomic(kept, self.epochs_path)

    def log(self, text: str) -> None:
        """Append text to the run's log, with the current time (UTC)."""
        append_text(f"{utc_now()} {text.rstrip()}\n", self.log_path)

    def evaluation(self, evaluation_id: str) -> EvaluationDirectory:
        """An evaluation by name, which need not exist."""
        return EvaluationDirectory(self, evaluation_id)

    def evaluations(self) -> list[EvaluationDirectory]:
        """The evaluations that have a record, by name."""
        records = sorted(self.evaluations_path.glob("*/evaluation.json"))
        return [EvaluationDirectory(self, record.parent.name) for record in records]

    def finished_evaluations(self) -> list[EvaluationDirectory]:
        """The evaluations whose record says success, by name; damaged records are left out."""
        readable = [each for each in self.evaluations() if each.damage is None]
        return [each for each in readable if each.record["status"] == "success"]

    def own_evaluation(self) -> EvaluationDirectory | None:
        """The run's own finished evaluation, at its largest radius; None if there is none.

        It is the newest one with the protocol of the run's configuration. For a loaded model, or a
        configuration of another release, it is the first one.
        """
        finished = self.finished_evaluations()
        finished.sort(key=lambda each: (str(each.record["finished_at"]), each.evaluation_id))
        try:
            own = EvalConfig.model_validate((self.record.get("config") or {})["evaluation"])
        except (KeyError, ValidationError):
            return finished[0] if finished else None
        # A standard budget and the order of the file are not recorded.
        wanted = {"budget": None, "order": None} | own.protocols()[-1].identity_payload()
        for evaluation in reversed(finished):
            protocol = evaluation.record.get("protocol") or {}
            if all(protocol.get(name) == value for name, value in wanted.items()):
                return evaluation
        return None


def utc_now() -> str:
    """The current time in UTC as ISO 8601, which sorts chronologically as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_folders(results: Path) -> list[RunDirectory]:
    """Every folder under ``runs``, readable or not, by name."""
    folders = sorted((results / RUNS_FOLDER).glob("[!.]*"))
    return [RunDirectory(results, folder.name) for folder in folders if folder.is_dir()]


def list_runs(results: Path) -> list[RunDirectory]:
    """The runs that have a record, by name."""
    return [directory for directory in run_folders(results) if directory.exists]


def find_run(results: Path, name: str) -> RunDirectory:
    """Find a run by its name, an unambiguous prefix of it, or its folder.

    Raises:
        UserError: no run or several runs match; the message names the nearest ones.
    """
    folder = Path(name).resolve()
    if (folder / "run.json").exists() and folder.parent.name == RUNS_FOLDER:
        return RunDirectory(folder.parent.parent, folder.name)
    runs = {directory.run_id: directory for directory in list_runs(results)}
    if name in runs:
        return runs[name]
    matching = [run_id for run_id in runs if run_id.startswith(name)]
    if len(matching) == 1:
        return runs[matching[0]]
    if matching:
        shown = ", ".join(matching[:5]) + (", ..." if len(matching) > 5 else "")
        raise UserError(f"{name!r} matches {len(matching)} runs: {shown}: give more of the name")
    raise UserError(_no_such_run(results, name))


def stored_run(results: Path, source: str | Path) -> RunDirectory | None:
    """The stored run that ``source`` names; None for a file or a name with a colon.

    Raises:
        UserError: ``source`` is neither, and no run has the name.
    """
    if ":" in str(source) or Path(source).is_file():
        return None
    return find_run(results, str(source))


def _no_such_run(results: Path, name: str) -> str:
    is_path = any(sign in name for sign in "/\\") or name.lower().endswith(WEIGHTS_SUFFIXES)
    if is_path and not Path(name).is_file():
        return f"there is no file or run {name!r}: check the path, or name a run in {results}"
    known = [directory.run_id for directory in list_runs(results)]
    hint = f"it holds {counted(len(known), 'other run')}." if known else "it holds no runs."
    if near := nearest(name, known):
        hint = f"did you mean {' or '.join(near)}?"
    return f"there is no run {name!r} in {results}: {hint}"


def _checked_name(name: str, kind: str) -> str:
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
        raise UserError(f"{name!r} is not a valid name for a {kind}: use letters and digits")
    return name
