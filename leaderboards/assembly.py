"""The tables of the paper, assembled from the printed numbers and a results folder."""

from __future__ import annotations

from pathlib import Path

from leaderboards.rendered import RenderedTable, TableTitle


def tables() -> list[TableTitle]:
    """Number and title of every table, in order."""
    raise NotImplementedError


def table(number: int, results: Path | None = None) -> RenderedTable:
    """One table with every number in its place.

    Args:
        number: 1 to 9.
        results: the results folder whose runs stand beside; None for the printed numbers alone.
            A folder without a database is as good as None.

    Raises:
        UserError: there is no such table, or the database cannot be read.
    """
    raise NotImplementedError
