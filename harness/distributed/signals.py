"""SIGTERM, from a scheduler or from ``kill``, ends a command as Ctrl-C does: in order."""

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
    """Whether a signal has asked the process to stop, and which."""

    number: int | None = None
    at: float = 0.0

    @property
    def status(self) -> int | None:
        """The exit status that tells of the signal: 130 for SIGINT, 143 for SIGTERM."""
        return None if self.number is None else 128 + self.number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt for the first signal, and end at once for a later one.

        A terminal, a wrapper and an impatient hand send the same wish more than once; what comes
        within two seconds must not cut short the writing down of what is done.
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
    """Within, SIGINT and SIGTERM interrupt; a signal that the parent had ignored stays ignored."""
    stop = Stop()
    heeded = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
