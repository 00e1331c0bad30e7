"""Results of several folders become one: no run lost, none doubled, none overwritten by a lesser.

A run's directory is what is merged; the database follows from it, so that what was merged survives
a rebuild. Where both sides have a run, the trained weights decide: if they are the same (or one
side has none yet), each evaluation is taken from the side that has finished it, or got further. If
both sides finished and differ, in weights or in a verdict, theirs is kept whole under
``conflicts/``, which is a results folder of its own, and is named.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.config import fingerprint
from harness.errors import UserError
from harness.store.database import Database
from harness.store.files import TEMPORARY_SUFFIX, file_lock, file_sha256, make_folder, replacing
from harness.store.ingest import snapshot
from harness.store.rundir import RUNS_FOLDER, EvaluationDirectory, RunDirectory, run_folders

CONFLICTS = "conflicts"
LOCK = "run.lock"
DISCRETE = ("index", "label", "clean_pred", "broken_by")


@dataclass
class Merged:
    """What became of the other side's runs.

    Attributes:
        added: runs that were not here.
        completed: runs that were here, but with less.
        same: runs of which all was here.
        conflicts: runs that contradict the one here, and the results folder that now keeps theirs.
        left_out: runs that could not be merged, and why.
    """

    added: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    conflicts: list[tuple[str, Path]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Copy:
    """One side's copy of a run, read and verified.

    Attributes:
        run: its directory.
        record: its ``run.json``.
        weights: hashes of its weights that the run and its evaluations tell of.
        finished: of each finished evaluation the verdicts' discrete columns.
        evaluations: all evaluations that have a record.
    """

    run: RunDirectory
    record: dict[str, Any]
    weights: frozenset[str]
    finished: dict[str, pa.Table]
    evaluations: dict[str, EvaluationDirectory]

    @property
    def progress(self) -> tuple[bool, bool, int]:
        """How far the run is; a larger one is further."""
        finished = self.record.get("status") == "success"
        return finished, self.run.model_path.exists() or bool(self.weights), len(self.run.epochs())

    def contradicts(self, other: Copy) -> bool:
        """Whether both cannot be right: other weights, or another verdict under one protocol."""
        if self.weights and other.weights and not self.weights & other.weights:
            return True
        models = [copy.run.model_path for copy in (self, other)]
        if not (self.weights and other.weights) and all(path.exists() for path in models):
            return file_sha256(models[0]) != file_sha256(models[1])
        both = self.finished.keys() & other.finished.keys()
        return any(not self.finished[name].equals(other.finished[name]) for name in both)

    def digest(self) -> str:
        """Names the contents: equal for equal weights and verdicts."""
        verdicts = {name: table.to_pylist() for name, table in self.finished.items()}
        return fingerprint([self.run.run_id, sorted(self.weights), verdicts, self.progress[2]])


def read_copy(run: RunDirectory) -> Copy:
    """Read a run's directory and verify its verdicts.

    Raises:
        UserError: a file of it is missing or damaged.
    """
    rows, record = snapshot(run), run.record
    evaluations = {each.evaluation_id: each for each in run.evaluations()}
    told = {
        (each.record.get("protocol") or {}).get("model_sha256") for each in evaluations.values()
    }
    finished = {name: rows.verdicts(name).select(DISCRETE) for name in rows.verdict_files}
    told.add(record.get("model_sha256"))
    weights = frozenset(each for each in told if each is not None)
    return Copy(run, record, weights, finished, evaluations)


def merge(results: Path, other: Path) -> Merged:
    """Bring every run of another results folder into this one, and into its database.

    Repeating it changes nothing, and after a crash finishes it.

    Raises:
        UserError: there is no such folder, it is this one, or this one cannot be written.
    """
    if other.resolve() == results.resolve():
        raise UserError(f"{other} is the results folder itself: name another one")
    if not (other / RUNS_FOLDER).is_dir():
        raise UserError(f"{other} holds no folder {RUNS_FOLDER!r}: name a results folder")
    merged, database = Merged(), Database(results)
    for theirs in run_folders(other):
        try:
            with _unworked(theirs):
                _merge_run(results, theirs, merged)
            database.record(RunDirectory(results, theirs.run_id))
        except UserError as error:
            merged.left_out.append((theirs.run_id, str(error)))
    return merged


def _merge_run(results: Path, theirs: RunDirectory, merged: Merged) -> None:
    copy = read_copy(theirs)
    ours = RunDirectory.create(results, theirs.run_id)
    with ours.lock():
        if not ours.exists:
            _take(theirs, ours, _files(theirs))
            merged.added.append(ours.run_id)
            return
        mine = read_copy(ours)
        if not mine.contradicts(copy):
            wanted = _wanted(mine, copy)
            _take(theirs, ours, wanted)
            (merged.completed if wanted else merged.same).append(ours.run_id)
            return
    aside = results / CONFLICTS / f"{theirs.run_id}-{copy.digest()}"
    kept = RunDirectory.create(aside, theirs.run_id)
    with kept.lock():
        _take(theirs, kept, [path for path in _files(theirs) if not (kept.path / path).exists()])
    Database(aside).record(kept)
    merged.conflicts.append((theirs.run_id, aside))


def _wanted(mine: Copy, theirs: Copy) -> list[Path]:
    """The files of theirs that bring this side's run to the more complete of both."""
    evaluations = theirs.run.evaluations_path
    every = _files(theirs.run)
    training = [path for path in every if not (theirs.run.path / path).is_relative_to(evaluations)]
    if theirs.progress <= mine.progress:
        # What one side threw away, or never had, such as the weights of an imported run.
        both_trained = theirs.progress[1] and mine.progress[1]
        training = [
            path
            for path in training
            if both_trained and path.name == "model.pt" and not (mine.run.path / path).exists()
        ]
    wanted = []
    for name, evaluation in theirs.evaluations.items():
        here = mine.evaluations.get(name)
        if name in mine.finished or (
            here and name not in theirs.finished and _further(here, evaluation)
        ):
            continue
        folder = evaluation.path.relative_to(theirs.run.path)
        wanted += [path for path in every if path.is_relative_to(folder)]
    return wanted + training


def _further(here: EvaluationDirectory, there: EvaluationDirectory) -> bool:
    return len(here.finished_chunks()) >= len(there.finished_chunks())


def _files(run: RunDirectory) -> list[Path]:
    """A run's files relative to its folder; those whose presence says that all is there, last."""
    found = [path.relative_to(run.path) for path in run.path.rglob("[!.]*") if path.is_file()]
    found = [path for path in found if path.name != LOCK and path.suffix != TEMPORARY_SUFFIX]
    last = ("evaluation.json", "model.pt", "run.json")
    return sorted(
        found, key=lambda path: (last.index(path.name) if path.name in last else -1, path)
    )


def _take(theirs: RunDirectory, ours: RunDirectory, files: list[Path]) -> None:
    """Copy files, each whole or not at all, and verify that what lies here is what lay there."""
    for path in files:
        source, target = theirs.path / path, ours.path / path
        digest = hashlib.sha256()
        try:
            with open(source, "rb") as incoming, replacing(target) as outgoing:
                while block := incoming.read(1 << 20):
                    digest.update(block)
                    outgoing.write(block)
        except FileNotFoundError as error:
            raise UserError(f"{source} vanished while it was merged: repeat the command") from error
        if file_sha256(target) != digest.hexdigest():
            raise UserError(f"{target} is not what was read from {source}: check the disk")


@contextmanager
def _unworked(run: RunDirectory) -> Iterator[None]:
    """Nobody works on the run meanwhile, as far as a folder that may be read-only can tell."""
    busy = (
        f"a process is working on run {run.run_id} there: repeat the command when it has finished"
    )
    lock = file_lock(run.path / LOCK, wait_s=0, busy=busy)
    with lock if os.access(run.path, os.W_OK) else nullcontext():
        yield


@contextmanager
def scratch(results: Path) -> Iterator[Path]:
    """A hidden folder beside the runs that is gone when the block ends."""
    folder = results / f".incoming.{os.getpid()}{TEMPORARY_SUFFIX}"
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def as_json(merged: Merged) -> str:
    """The outcome for programs."""
    return json.dumps(
        {
            "added": merged.added,
            "completed": merged.completed,
            "same": merged.same,
            "conflicts": {run_id: str(folder) for run_id, folder in merged.conflicts},
            "left_out": dict(merged.left_out),
        },
        indent=2,
    )
