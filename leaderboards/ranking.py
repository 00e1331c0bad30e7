"""Rows of results, and who stands first where only like is ranked with like."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PARTIAL = "partial"


@dataclass(frozen=True)
class Score:
    """A number with what is known of its uncertainty.

    Attributes:
        value: an accuracy in [0, 1], or seconds.
        low: lower end of the 95% interval of one model.
        high: its upper end.
        std: sample standard deviation (ddof 1) over seeds, or as printed.
        disputed: whether it is printed, and the paper contradicts it.
        mean_low: of a mean over seeds, the lower end of its 95% interval: what seeds and what
            images leave open, whichever is wider.
        mean_high: its upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    disputed: bool = False
    mean_low: float | None = None
    mean_high: float | None = None

    @property
    def span(self) -> tuple[float, float]:
        """The ends of its 95% interval; the value itself where none is known."""
        low = self.low if self.mean_low is None else self.mean_low
        high = self.high if self.mean_high is None else self.mean_high
        return self.value if low is None else low, self.value if high is None else high

    def overlaps(self, other: Score) -> bool:
        """Whether the two spans share a number."""
        return self.span[0] <= other.span[1] and other.span[0] <= self.span[1]


@dataclass(frozen=True)
class Entry:
    """One row of a table of results.

    Attributes:
        method: what it is called.
        arch: the network, with its teacher if it has one.
        badge: where its numbers come from; one of ``leaderboards.table``.
        scores: metric name to number.
        seeds: how many runs it is the mean of; None for a printed row.
        n: test images.
        partial: measured or trained on a part of the data, so never ranked.
        own: whether it holds the run that the table is about.
        run_ids: its runs.
        source: where a printed row is printed.
        flags: reasons to doubt the numbers, one sentence each.
        rank: "1", "1=" for a 95% interval that overlaps the leader's, then the place, "partial",
            or empty.
    """

    method: str
    arch: str
    badge: str
    scores: Mapping[str, Score]
    seeds: int | None = None
    n: int | None = None
    partial: bool = False
    own: bool = False
    run_ids: tuple[str, ...] = ()
    source: str = ""
    flags: tuple[str, ...] = ()
    rank: str = field(default="")


def ranked(entries: Sequence[Entry], metric: str) -> list[Entry]:
    """The entries with their ranks by ``metric``, best first, then those that are not ranked.

    "1=" says that an entry cannot be told from the leader: a few seeds that differ much may have a
    low mean, below that of entries which can be told from it, and still be one of these.
    """

    def value(entry: Entry) -> float:
        return entry.scores[metric].value if metric in entry.scores else -1.0

    ordered = sorted(entries, key=value, reverse=True)
    eligible = [entry for entry in ordered if not entry.partial and metric in entry.scores]
    result = []
    for place, entry in enumerate(eligible, 1):
        tied = place > 1 and entry.scores[metric].overlaps(eligible[0].scores[metric])
        result.append(dataclasses.replace(entry, rank="1=" if tied else str(place)))
    rest = [entry for entry in ordered if entry.partial or metric not in entry.scores]
    return result + [
        dataclasses.replace(entry, rank=PARTIAL if entry.partial else "") for entry in rest
    ]


def arch_text(arch: str, teacher: str | None) -> str:
    """A network, and the teacher that it was distilled from."""
    return f"{arch} from {teacher}" if teacher else arch
