"""A run's current progress, in a small file in its directory that other processes can read.

The database is updated when a run begins and ends, its directory after each epoch and chunk. This
file shows the progress in between. A run never reads it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from harness.errors import UserError
from harness.progress import TimeLeft
from harness.store.files import write_json_atomic
from harness.store.rundir import RunDirectory, utc_now

EVERY_S = 2.0


class LiveProgress:
    """Writes a run's progress, at most once every ``EVERY_S`` seconds."""

    def __init__(self, directory: RunDirectory, work: str) -> None:
        """Report the progress of one part of the run, ``work``, such as ``training``."""
        self._path, self._work = directory.progress_path, work
        self._written, self._time_left = float("-inf"), TimeLeft()

    def __call__(self, share: float, note: str) -> None:
        """Record the share of the work that is done, in [0, 1], and a note on the current step."""
        now = time.monotonic()
        left = self._time_left.at(now, share)
        if now - self._written < EVERY_S:
            return
        self._written = now
        facts: dict[str, Any] = {"work": self._work, "note": note, "share": share, "left_s": left}
        # A full disk must stop a run only where results would be lost, not here.
        with suppress(OSError, UserError):
            write_json_atomic(facts | {"at": utc_now()}, self._path)
