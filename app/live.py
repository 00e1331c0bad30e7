"""What running runs have written to their directories and not yet to the database."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.errors import UserError
from harness.store.rundir import RunDirectory

WATCHED = 40


def with_live_epochs(runs: pd.DataFrame, results: Path) -> pd.DataFrame:
    """The frame of ``queries.runs`` with ``epochs_done`` and ``watched`` of running runs as of now.

    The database learns of a run when it begins and when it ends; its directory, after each epoch.
    """
    if not (runs["status"] == "started").any():
        return runs
    done, watched = list(runs["epochs_done"]), list(runs["watched"])
    for place in range(len(runs)):
        if runs["status"].iloc[place] == "started":
            records = _epochs(results, str(runs["run_id"].iloc[place]))
            done[place] = len(records)
            last = [record.get("pgd_val", record.get("clean_val")) for record in records[-WATCHED:]]
            watched[place] = [value for value in last if value is not None]
    return runs.assign(epochs_done=done, watched=pd.Series(watched, runs.index, dtype=object))


def epoch_frame(results: Path, run_id: str) -> pd.DataFrame:
    """A running run's finished epochs, as ``queries.epochs`` gives them after its end."""
    records = _epochs(results, run_id)
    return pd.DataFrame.from_records(records) if records else pd.DataFrame({"epoch": []})


def _epochs(results: Path, run_id: str) -> list[dict[str, float]]:
    try:
        return [record for record in RunDirectory(results, run_id).epochs() if record]
    except UserError:
        # A directory that was moved away, or a line being written: the database's rows stand.
        return []
