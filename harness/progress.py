"""Progress of a run: bars with a time estimate on a terminal, plain lines otherwise."""

from __future__ import annotations

import html
import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

PLAIN_LINE_EVERY_S = 20.0
SHARE_TO_ESTIMATE = 0.02
NOTEBOOK_EVERY_S = 0.2
LOGGER = logging.getLogger("harness")

# Called with the share of the work that is done, in [0, 1], and a note on the current work.
ProgressFn = Callable[[float, str], None]


def no_progress(share: float, note: str) -> None:
    """Ignore progress."""


def part_of(progress: ProgressFn, before: float, part: float, total: float) -> ProgressFn:
    """Convert the share of a part of the work, done after ``before``, to the share of ``total``."""
    return lambda share, note: progress((before + share * part) / total, note)


class Reporter:
    """Shows progress on standard error or in a notebook; ``quiet`` (for ``--json``) prints nothing.

    In a program that handles INFO records of the logger ``harness``, lines are logged instead.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """See the class; bars appear only where standard error is a terminal."""
        self.console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)

    def line(self, text: str) -> None:
        """Log one line to the logger ``harness``; print it if that has no handler for INFO.

        The line is wrapped on a terminal only.
        """
        if LOGGER.isEnabledFor(logging.INFO) and LOGGER.hasHandlers():
            LOGGER.info(text)
        else:
            self.console.print(text, soft_wrap=not self.console.is_terminal)

    @contextmanager
    def stage(
        self, title: str, total: int | None = None, watch: ProgressFn | None = None
    ) -> Iterator[Stage]:
        """Show the progress of ``total`` steps or, without ``total``, of a fraction in [0, 1].

        ``watch`` is called at each update with the finished share and the update's note.
        """
        if self.console.is_jupyter and not self.console.quiet:
            below_cell = NotebookBar()
            try:
                yield Stage(self, title, total, below_cell, watch)
            finally:
                below_cell.close()
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn() if total else TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                yield Stage(self, title, total, bar, watch)
        else:
            yield Stage(self, title, total, None, watch)


class NotebookBar:
    """A bar below a notebook cell that needs only IPython; rich's own bar needs ipywidgets."""

    def __init__(self) -> None:
        """Show nothing yet."""
        # IPython is installed only where notebooks are used.
        self._ipython: Any = importlib.import_module("IPython.display")
        self._handle: Any = None
        self._total, self._shown_at = 1.0, 0.0

    def add_task(self, description: str, total: float, left: str = "") -> TaskID:
        """Show an empty bar."""
        self._total = total
        self._handle = self._ipython.display(self._html(0, description), display_id=True)
        return TaskID(0)

    def update(
        self, task_id: TaskID, *, completed: float, description: str, left: str = ""
    ) -> None:
        """Show the progress, a few times a second at most."""
        now = time.monotonic()
        if completed >= self._total or now - self._shown_at >= NOTEBOOK_EVERY_S:
            self._shown_at = now
            self._handle.update(self._html(completed, ", ".join(filter(None, (description, left)))))

    def close(self) -> None:
        """Remove the bar."""
        self._handle.update(self._ipython.HTML(""))

    def _html(self, completed: float, description: str) -> Any:
        share = completed / self._total
        bar = f"<progress value='{share:.4f}'></progress>"
        return self._ipython.HTML(f"{bar} {share:.0%} {html.escape(description)}")


class TimeLeft:
    """Estimates the time left, assuming that equal shares of the work take equal time."""

    def __init__(self) -> None:
        """Start without an estimate."""
        self._began: tuple[float, float] | None = None

    def begin(self, now: float, share: float) -> None:
        """Set the share that was done, and the time in seconds, when this process started."""
        self._began = now, share

    def at(self, now: float, share: float) -> float | None:
        """Seconds left when ``share`` is done; None if this process has done too little of it.

        The first call does what ``begin`` does if that was not called.
        """
        self._began = self._began or (now, share)
        gained = self.gained(share)
        if gained < SHARE_TO_ESTIMATE:
            return None
        return (now - self._began[0]) / gained * (1 - share)

    def gained(self, share: float) -> float:
        """The share of the work that this process did."""
        return share - self._began[1] if self._began else 0.0


class Stage:
    """Progress of one piece of work."""

    def __init__(
        self,
        reporter: Reporter,
        title: str,
        total: int | None,
        bar: Progress | NotebookBar | None,
        watch: ProgressFn | None = None,
    ) -> None:
        """Created by ``Reporter.stage``."""
        self._reporter, self._title, self._total, self._bar = reporter, title, total, bar
        self._full, self._watch = total or 1, watch
        self._task = bar.add_task(title, total=self._full, left="") if bar else None
        self._last_line = time.monotonic()
        self._time_left = TimeLeft()
        # Steps start at 0, fractions at the first one shown: an earlier process did that share.
        if total:
            self._time_left.begin(self._last_line, 0.0)

    def start_at(self, done: int) -> None:
        """Set the number of steps that an earlier process finished; the estimate ignores them."""
        self._time_left.begin(time.monotonic(), done / self._full)
        self.update(done)

    def update(self, done: float, note: str = "") -> None:
        """Show the number of finished steps, or the fraction in [0, 1]."""
        now, share = time.monotonic(), done / self._full
        if self._watch is not None:
            self._watch(share, note)
        title = f"{self._title} {note}" if note else self._title
        seconds = self._time_left.at(now, share)
        left = "" if seconds is None else f"about {duration(seconds)} left"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=title, left=left)
        elif now - self._last_line >= PLAIN_LINE_EVERY_S and self._time_left.gained(share):
            self._last_line = now
            so_far = f"step {done} of {self._total}" if self._total else f"{done:.0%}"
            self._reporter.line(", ".join(filter(None, (f"{title}: {so_far}", left))))


class TrainingProgress:
    """Shows the progress of training: a bar over all steps, one line per epoch."""

    def __init__(
        self,
        reporter: Reporter,
        stage: Stage,
        epochs: int,
        track: Callable[[Mapping[str, Any]], None] = lambda record: None,
    ) -> None:
        """Show progress on ``stage``, whose total is epochs x steps; ``track`` gets each epoch."""
        self._reporter, self._stage, self._epochs = reporter, stage, epochs
        self._track = track

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Show the step; called after each optimiser step."""
        self._stage.update((epoch - 1) * steps + step, f"epoch {epoch}/{self._epochs}")

    def line(self, text: str) -> None:
        """Print one line."""
        self._reporter.line(text)

    def epoch(self, record: dict[str, Any]) -> None:
        """Print and track the record of a finished epoch."""
        self._reporter.line(epoch_line(record, self._epochs))
        self._track(record)


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """Return one epoch as a line of about 120 characters at most."""
    fields = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}", f"loss {record['loss']:.4f}"]
    fields += [f"{name} {value:.4f}" for name, value in record["parts"].items()]
    fields.append(f"lr {record['lr']:.4g}")
    if record.get("eps") is not None:
        fields.append(f"eps {record['eps']:.4f}")
    for name, label in (("clean_val", "clean"), ("pgd_val", "pgd"), ("clean_test", "test")):
        if record.get(name) is not None:
            fields.append(f"{label} {100 * record[name]:.1f}%")
    fields.append(f"{record['sec_per_iter']:.3f} s/iter")
    if record.get("peak_memory_mb") is not None:
        fields.append(f"{record['peak_memory_mb']:.0f} MiB")
    return "  ".join(fields)


def duration(seconds: float) -> str:
    """Return ``75`` as ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
