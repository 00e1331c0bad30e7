"""SIGTERM, from a scheduler or from ``kill``, ends a command cleanly, as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
REPEAT_WINDOW_S = 2.0
AGAIN_AFTER_S = 0.05


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

    def unraisable(self, lost: Any) -> None:
        """Send the signal again if its KeyboardInterrupt was raised where Python drops exceptions.

        Such places are ``__del__`` and callbacks of weak references and of compiled code. Without
        this, a signal that arrives there would be lost.
        """
        if self.number is None or not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        number, self.number = self.number, None
        again = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM inside the block; a signal that was ignored stays ignored."""
    stop = Stop()
    handled = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    hook, sys.unraisablehook = sys.unraisablehook, stop.unraisable
    try:
        yield stop
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
