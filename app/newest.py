"""The newest evaluated runs, of which Compare and t-SNE offer two."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from app import components as ui
from harness.store.text import counted


def newest_runs(function: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """The rows of the newest runs, and of the two that the URL names, however old.

    Args:
        function: ``queries.comparable`` or ``queries.measured``.
    """
    found = ui.query(function)
    if not left_out(found):
        return found
    named = {name for key in "ab" if (name := st.query_params.get(key))}
    older = sorted(named - set(found["run_id"]))
    return pd.concat([found, ui.query(function, older)], ignore_index=True) if older else found


def left_out(found: pd.DataFrame) -> int:
    """The number of evaluated runs that ``newest_runs`` left out."""
    return 0 if found.empty else int(found["found"].iloc[0]) - found["run_id"].nunique()


def say_left_out(found: pd.DataFrame) -> None:
    """Say how many evaluated runs ``newest_runs`` left out, if it did."""
    if older := left_out(found):
        read = counted(found["run_id"].nunique(), "evaluated run")
        st.caption(
            f"Only {read} are offered or counted here, the newest and those that the URL names; "
            f"older runs left out: {older:,}."
        )
