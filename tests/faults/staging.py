"""Code for a forked command that notes the stage it is in, and is ended at a random moment of one.

The kernel ends the process on a timer that is armed when the stage begins, also inside compiled
code; Python learns nothing of it, as with ``kill -9``.
"""

import signal
from itertools import pairwise
from pathlib import Path

STAGES = ("training", "evaluation", "storing", "indexing")
KILLED = -signal.SIGALRM

# Each stage lasts while the function runs; indexing begins and ends a run and lies between.
_STAGING = """
import os, signal, time
import harness.evaluation.driver as driver
import harness.experiment.record as record
import harness.experiment.runner as runner
from harness.store.database import Database

record.INDEX_WAIT_S = {wait_s}
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
calls = 0

def enter(stage):
    os.write(log, f"{{stage}} {{time.monotonic()}}\\n".encode())

def staged(owner, name, stage):
    real = getattr(owner, name)
    def call(*given, **named):
        global calls
        enter(stage)
        calls += stage == {target!r}
        if stage == {target!r} and calls == {call}:
            signal.setitimer(signal.ITIMER_REAL, {delay})
        try:
            return real(*given, **named)
        finally:
            enter("between")
    setattr(owner, name, call)

staged(runner, "trained_model", "training")
staged(driver, "finish", "evaluation")
staged(driver, "write_verdicts", "storing")
staged(Database, "_index", "indexing")
signal.signal(signal.SIGALRM, signal.SIG_DFL)
"""


def staging(
    log: Path, target: str = "", delay: float = 1.0, *, call: int = 1, wait_s: float = 5.0
) -> str:
    """The code.

    Args:
        log: file to which each stage is written, with the time.
        target: the stage at whose begin the timer is armed; none by default.
        delay: its seconds.
        call: the stage's turn that counts, from 1.
        wait_s: how long runs wait for the database.
    """
    return _STAGING.format(
        log=str(log), target=target, delay=max(delay, 1e-6), call=call, wait_s=wait_s
    )


def stage_of(log: Path) -> str:
    """The stage in which a process ended; after the verdicts are written, it is storing still."""
    stages = [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
    if not stages:
        return "start"
    if stages[-1] != "between":
        return stages[-1]
    return next((each for each in ("storing", "evaluation", "training") if each in stages), "start")


def durations(log: Path) -> dict[str, float]:
    """The longest time that each stage took in a process that ran to its end."""
    entries = [line.split() for line in log.read_text().splitlines()]
    found = dict.fromkeys(STAGES, 0.0)
    for (stage, began), (_, ended) in pairwise(entries):
        if stage in found:
            found[stage] = max(found[stage], float(ended) - float(began))
    return found
