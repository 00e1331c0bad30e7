"""Merging results folders: no run is lost, duplicated, or replaced by a less complete one.

Run directories are merged; the database follows from them, so that a rebuild keeps what was merged.
If both sides have a run, its weights decide. If they are equal, or one side has none yet, each
evaluation is taken from the side that has finished it, on more images or with more adversarial
images saved if both have, or else got further. The same holds for each file of the command
``corrupt``, and the run's record gets the metrics of both sides, except for parts of another mean
than its own. If both sides have finished and differ, in weights or in the verdict of an image that
both evaluated, the other side's copy is kept whole in its own results folder under ``conflicts/``,
and is reported.
"""

from __future__ import annotations

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
from harness.store.files import (
    TEMPORARY_SUFFIX,
    DamagedFile,
    file_lock,
    file_sha256,
    read_json,
    replacing,
    write_json_atomic,
)
from harness.store.ingest import snapshot
from harness.store.rundir import RUNS_FOLDER, EvaluationDirectory, RunDirectory, run_folders

CONFLICTS = "conflicts"
LOCK = "run.lock"
# The fields of a run's record with the protocols of the command ``corrupt``.
CORRUPTED = ("corruptions", "corruptions-partial")
DISCRETE = ("index", "label", "clean_pred", "broken_by")
# Files whose presence shows that others are complete; they are copied last, in this order.
LAST = ("evaluation.json", "model.pt", "run.json")


@dataclass
class Merged:
    """What happened to the other side's runs.

    Attributes:
        added: runs that were not here.
        completed: runs that were here, but less complete.
        same: runs that were here with every result that the other side has.
        conflicts: runs that contradict the one here, and the results folder that now holds them.
        left_out: runs, and their evaluations as ``RUN@EVALUATION`` and files of ``corrupt`` as
            ``RUN@FILE``, that could not be merged, and why.
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
        record: its record.
        weights: hashes of its weights in the records of the run and its evaluations.
        finished: the discrete verdict columns of each finished evaluation, in the order of attack.
        corruptions: the number of counts in each file of the command ``corrupt``, by name.
        damaged: folders of evaluations and files of ``corrupt`` that cannot be read, and why.
        progress: whether it has finished, whether it has weights, and its number of epochs; a
            larger tuple is further.
    """

    run: RunDirectory
    record: dict[str, Any]
    weights: frozenset[str]
    finished: dict[str, pa.Table]
    corruptions: dict[str, int]
    damaged: dict[Path, str]
    progress: tuple[bool, bool, int]

    def contradicts(self, other: Copy) -> bool:
        """Whether weights differ, or verdicts of the same images under the same protocol do."""
        if self.weights and other.weights and not self.weights & other.weights:
            return True
        models = [copy.run.model_path for copy in (self, other)]
        if not (self.weights and other.weights) and all(path.exists() for path in models):
            return file_sha256(models[0]) != file_sha256(models[1])
        for name in self.finished.keys() & other.finished.keys():
            # A sequential evaluation that stopped earlier has the first images of a longer one.
            first, second = self.finished[name], other.finished[name]
            shared = min(len(first), len(second))
            if not first.slice(0, shared).equals(second.slice(0, shared)):
                return True
        return False

    def images(self, evaluation_id: str) -> int:
        """The number of images of an evaluation; 0 if it is not finished."""
        return len(self.finished.get(evaluation_id, ()))

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
    corruptions, damaged = _read_corruptions(run)
    damaged |= rows.damaged
    return Copy(run, record, frozenset(hashes), finished, corruptions, damaged, progress)


def _read_corruptions(run: RunDirectory) -> tuple[dict[str, int], dict[Path, str]]:
    """The number of counts in each file of the command ``corrupt``, and the damaged files."""
    counts, damaged = {}, {}
    for path in run.path.glob("corruptions-*.json"):
        try:
            content = read_json(path)
            if not (isinstance(content, dict) and isinstance(content.get("correct"), dict)):
                raise DamagedFile(f"{path} holds no counts: restore it, or move it away")
            counts[path.name] = len(content["correct"])
        except UserError as error:
            damaged[path] = str(error)
    return counts, damaged


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
    for path, reason in copy.damaged.items():
        merged.left_out[f"{theirs.run_id}@{path.name}"] = reason
    ours = RunDirectory.create(results, theirs.run_id)
    with ours.lock():
        if not ours.exists:
            _copy_files(theirs, ours, _files(copy))
            merged.added.append(ours.run_id)
            return
        mine = read_copy(ours)
        if not mine.contradicts(copy):
            (merged.completed if _complete(mine, copy) else merged.same).append(ours.run_id)
            return
    aside = results / CONFLICTS / f"{theirs.run_id}-{copy.digest()}"
    kept = RunDirectory.create(aside, theirs.run_id)
    with kept.lock():
        if kept.exists:
            _complete(read_copy(kept), copy)
        else:
            _copy_files(theirs, kept, _files(copy))
    Database(aside).record(kept)
    merged.conflicts[theirs.run_id] = aside


def _complete(mine: Copy, theirs: Copy) -> bool:
    """Copy what is missing here or more complete there; return whether anything is."""
    files, record = _more_complete(mine, theirs), _merged_record(mine, theirs)
    _copy_files(theirs.run, mine.run, files)
    if record != mine.record:
        write_json_atomic(record, mine.run.record_path)
    return bool(files) or record != mine.record


def _merged_record(mine: Copy, theirs: Copy) -> dict[str, Any]:
    """The record of the side that is further, with what only the other one measured."""
    further, other = mine.record, theirs.record
    if theirs.progress > mine.progress:
        further, other = other, further
    metrics = further.get("metrics") or {}
    # A mean and its parts, such as corruptions/fog, are of one protocol.
    means = {name.partition("/")[0] for name in metrics}
    others = (other.get("metrics") or {}).items()
    metrics = {name: v for name, v in others if name.partition("/")[0] not in means} | metrics
    protocols = {name: other[name] for name in CORRUPTED if other.get(name)}
    kept = {name: further[name] for name in CORRUPTED if further.get(name)}
    return further | protocols | kept | ({"metrics": metrics} if metrics else {})


def _more_complete(mine: Copy, theirs: Copy) -> list[Path]:
    """Their files, but the record, that are missing here or of a part more complete there."""
    chunks = {each.evaluation_id: len(each.finished_chunks()) for each in mine.run.evaluations()}

    def is_further(evaluation: EvaluationDirectory) -> bool:
        name = evaluation.evaluation_id
        images = theirs.images(name), mine.images(name)
        if any(images):
            saved = evaluation.saved_images(), mine.run.evaluation(name).saved_images()
            return (images[0], saved[0]) > (images[1], saved[1])
        return len(evaluation.finished_chunks()) > chunks.get(name, -1)

    further = {each.evaluation_id for each in theirs.run.evaluations() if is_further(each)}
    # One side may have deleted its weights, or got the run from an export, which has none.
    both_trained = theirs.progress[1] and mine.progress[1]

    def is_needed(path: Path) -> bool:
        if path.parts[0] == theirs.run.evaluations_path.name:
            return path.parts[1] in further
        if path.name in theirs.corruptions:
            return theirs.corruptions[path.name] > mine.corruptions.get(path.name, 0)
        lost_weights = path.name == "model.pt" and not (mine.run.path / path).exists()
        return theirs.progress > mine.progress or (both_trained and lost_weights)

    record = theirs.run.record_path.relative_to(theirs.run.path)
    return [path for path in _files(theirs) if path != record and is_needed(path)]


def _files(copy: Copy) -> list[Path]:
    """Files of a run that are not damaged, relative to its folder, those of ``LAST`` at the end."""
    root, damaged = copy.run.path, copy.damaged.keys()
    found = [path for path in root.rglob("[!.]*") if path.is_file()]
    paths = [p.relative_to(root) for p in found if damaged.isdisjoint([p, *p.parents])]
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
