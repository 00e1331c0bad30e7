"""SIGTERM, from a scheduler or from ``kill``, ends a command cleanly, as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
REPEAT_WINDOW_S = 2.0


@dataclass
class Stop:
    """A signal handler that remembers which signal asked the process to stop."""

    number: int | None = None
    at: float = 0.0

    @property
    def status(self) -> int | None:
        """The exit status for the signal, 130 for SIGINT and 143 for SIGTERM; None without one."""
        return None if self.number is None else 128 + self.number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt for the first signal, and end at once for a later one.

        Terminals, wrapper scripts and users often send a signal several times: those within two
        seconds of the first are ignored, so that finished work is still saved.
        """
        now = time.monotonic()
        if self.number is None:
            self.number, self.at = number, now
            raise KeyboardInterrupt
        if now - self.at > REPEAT_WINDOW_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM inside; a signal that the parent ignored stays ignored."""
    stop = Stop()
    handled = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
