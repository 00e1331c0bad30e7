"""What a run is doing now, in a small file of its directory that other processes can read.

The database learns of a run when it begins and ends, the directory after each epoch and chunk. This
file says what happens in between. It decides nothing: a run never reads it.
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
    """Writes a run's progress, at most every ``EVERY_S`` seconds; see ``__call__``."""

    def __init__(self, directory: RunDirectory, work: str) -> None:
        """Progress of one piece of work of the run, such as ``training``."""
        self._path, self._work = directory.progress_path, work
        self._written, self._time_left = float("-inf"), TimeLeft()

    def __call__(self, share: float, note: str) -> None:
        """Note the share of the work that is done, in [0, 1], and what is being done."""
        now = time.monotonic()
        left = self._time_left.at(now, share)
        if now - self._written < EVERY_S:
            return
        self._written = now
        facts: dict[str, Any] = {"work": self._work, "note": note, "share": share, "left_s": left}
        # A full disk stops a run where it has something to lose, not here.
        with suppress(OSError, UserError):
            write_json_atomic(facts | {"at": utc_now()}, self._path)
