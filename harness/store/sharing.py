"""Merging results folders: no run is lost, duplicated, or replaced by a less complete one.

Run directories are merged; the database follows from them, so that a rebuild keeps what was merged.
If both sides have a run, its weights decide. If they are equal, or one side has none yet, each
evaluation is taken from the side that has finished it or got further. If both sides have finished
and differ, in weights or in a verdict, the other side's copy is kept whole in its own results
folder under ``conflicts/``, and is reported.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from harness.config import fingerprint
from harness.errors import UserError
from harness.store.database import Database
from harness.store.files import TEMPORARY_SUFFIX, file_lock, file_sha256, replacing
from harness.store.ingest import snapshot
from harness.store.rundir import RUNS_FOLDER, RunDirectory, run_folders

CONFLICTS = "conflicts"
LOCK = "run.lock"
DISCRETE = ("index", "label", "clean_pred", "broken_by")
# Files whose presence shows that others are complete; they are copied last, in this order.
LAST = ("evaluation.json", "model.pt", "run.json")


@dataclass
class Merged:
    """What happened to the other side's runs.

    Attributes:
        added: runs that were not here.
        completed: runs that were here, but less complete.
        same: runs that were here with everything that the other side has.
        conflicts: runs that contradict the one here, and the results folder that now holds them.
        left_out: runs, and evaluations as ``RUN@EVALUATION``, that could not be merged, and why.
    """

    added: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    conflicts: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Copy:
    """One side's copy of a run, read and verified.

    Attributes:
        run: its directory.
        weights: hashes of its weights in the records of the run and its evaluations.
        finished: the discrete verdict columns of each finished evaluation.
        damaged: folders of evaluations that cannot be read, and why.
        progress: whether it has finished, whether it has weights, and its number of epochs; a
            larger tuple is further.
    """

    run: RunDirectory
    weights: frozenset[str]
    finished: dict[str, pa.Table]
    damaged: dict[Path, str]
    progress: tuple[bool, bool, int]

    def contradicts(self, other: Copy) -> bool:
        """Whether weights differ, or verdicts under the same protocol do."""
        if self.weights and other.weights and not self.weights & other.weights:
            return True
        models = [copy.run.model_path for copy in (self, other)]
        if not (self.weights and other.weights) and all(path.exists() for path in models):
            return file_sha256(models[0]) != file_sha256(models[1])
        both = self.finished.keys() & other.finished.keys()
        return any(not self.finished[name].equals(other.finished[name]) for name in both)

    def digest(self) -> str:
        """A hash of the contents: the run's name, weights, verdicts and number of epochs."""
        verdicts = {name: table.to_pylist() for name, table in self.finished.items()}
        return fingerprint([self.run.run_id, sorted(self.weights), verdicts, self.progress[2]])


def read_copy(run: RunDirectory) -> Copy:
    """Read a run's directory and verify its verdicts.

    Raises:
        UserError: a file that does not belong to an evaluation is missing or damaged.
    """
    rows, record = snapshot(run), run.record
    whole = [each for each in run.evaluations() if each.path not in rows.damaged]
    protocols = [evaluation.record.get("protocol") or {} for evaluation in whole]
    hashes = {str(f["model_sha256"]) for f in (record, *protocols) if f.get("model_sha256")}
    finished = {name: verdicts.select(DISCRETE) for name, verdicts in rows.verdicts.items()}
    trained = run.model_path.exists() or bool(hashes)
    progress = (record.get("status") == "success", trained, len(run.epochs()))
    return Copy(run, frozenset(hashes), finished, rows.damaged, progress)


def merge(results: Path, other: Path) -> Merged:
    """Merge every run of another results folder into this one and its database.

    Repeating a merge changes nothing, or finishes it after a crash. Runs that cannot be merged are
    in ``Merged.left_out``.

    Raises:
        UserError: ``other`` is not a results folder, or is this one.
    """
    if other.resolve() == results.resolve():
        raise UserError(f"{other} is the results folder itself: name another one")
    if not (other / RUNS_FOLDER).is_dir():
        raise UserError(f"{other} holds no folder {RUNS_FOLDER!r}: name a results folder")
    merged, database = Merged(), Database(results)
    for theirs in run_folders(other):
        try:
            with _idle(theirs):
                _merge_run(results, theirs, merged)
            database.record(RunDirectory(results, theirs.run_id))
        except UserError as error:
            merged.left_out[theirs.run_id] = str(error)
    return merged


def _merge_run(results: Path, theirs: RunDirectory, merged: Merged) -> None:
    copy = read_copy(theirs)
    for folder, reason in copy.damaged.items():
        merged.left_out[f"{theirs.run_id}@{folder.name}"] = reason
    ours = RunDirectory.create(results, theirs.run_id)
    with ours.lock():
        if not ours.exists:
            _copy_files(theirs, ours, _files(copy))
            merged.added.append(ours.run_id)
            return
        mine = read_copy(ours)
        if not mine.contradicts(copy):
            files = _more_complete(mine, copy)
            _copy_files(theirs, ours, files)
            (merged.completed if files else merged.same).append(ours.run_id)
            return
    aside = results / CONFLICTS / f"{theirs.run_id}-{copy.digest()}"
    kept = RunDirectory.create(aside, theirs.run_id)
    with kept.lock():
        missing = [path for path in _files(copy) if not (kept.path / path).exists()]
        _copy_files(theirs, kept, missing)
    Database(aside).record(kept)
    merged.conflicts[theirs.run_id] = aside


def _more_complete(mine: Copy, theirs: Copy) -> list[Path]:
    """Their files that are missing here, or belong to a part that is more complete there."""
    chunks = {each.evaluation_id: len(each.finished_chunks()) for each in mine.run.evaluations()}
    further = {
        each.evaluation_id
        for each in theirs.run.evaluations()
        if each.evaluation_id not in mine.finished
        and (
            each.evaluation_id in theirs.finished
            or len(each.finished_chunks()) > chunks.get(each.evaluation_id, -1)
        )
    }
    # One side may have deleted its weights, or got the run from an export, which has none.
    both_trained = theirs.progress[1] and mine.progress[1]

    def is_needed(path: Path) -> bool:
        if path.parts[0] == theirs.run.evaluations_path.name:
            return path.parts[1] in further
        lost_weights = path.name == "model.pt" and not (mine.run.path / path).exists()
        return theirs.progress > mine.progress or (both_trained and lost_weights)

    return [path for path in _files(theirs) if is_needed(path)]


def _files(copy: Copy) -> list[Path]:
    """Files of a run that are not damaged, relative to its folder, those of ``LAST`` at the end."""
    root, damaged = copy.run.path, copy.damaged.keys()
    found = [path for path in root.rglob("[!.]*") if path.is_file()]
    paths = [path.relative_to(root) for path in found if damaged.isdisjoint(path.parents)]
    paths = [path for path in paths if path.name != LOCK and path.suffix != TEMPORARY_SUFFIX]
    return sorted(paths, key=lambda path: ((path.name in LAST) and LAST.index(path.name) + 1, path))


def _copy_files(theirs: RunDirectory, ours: RunDirectory, paths: list[Path]) -> None:
    """Copy files, each whole or not at all, and verify the copies."""
    for path in paths:
        source, target = theirs.path / path, ours.path / path
        try:
            with open(source, "rb") as incoming, replacing(target) as outgoing:
                shutil.copyfileobj(incoming, outgoing)
        except FileNotFoundError as error:
            raise UserError(f"{source} vanished while it was merged: repeat the command") from error
        if file_sha256(target) != file_sha256(source):
            raise UserError(f"{target} differs from {source} after copying: check the disk")


@contextmanager
def _idle(run: RunDirectory) -> Iterator[None]:
    """Keep other processes from working on the run, unless its folder is read-only."""
    busy = (
        f"a process is working on run {run.run_id} there: repeat the command when it has finished"
    )
    lock = file_lock(run.path / LOCK, wait_s=0, busy=busy)
    with lock if os.access(run.path, os.W_OK) else nullcontext():
        yield
