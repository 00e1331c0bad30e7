"""The frames of a leaderboard: cells as text, in the order that the page gives them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler

from app.components import download_name
from app.tabular import Shown

PIXELS_A_SIGN, PIXELS_A_BOLD_SIGN, PIXELS_AROUND, WIDEST = 7, 8, 24, 240
# A number, whatever mark, interval or unit stands behind it; "1M" is a word.
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?!\w)")
ENDINGS = {"CSV": "csv", "LaTeX": "tex", "Markdown": "md", "BibTeX": "bib"}


def frame(cells: Shown, places: Sequence[int], *, identity: object, words: str) -> list[int]:
    """Show some rows of a table; those that the reader picked.

    Args:
        cells: the whole table: frames of one table get columns of one width.
        places: the rows to show, from 0.
        identity: what is shown. A choice is a row's number: it must not outlive its rows.
        words: what the frame is, for those who cannot see it.
    """
    own = list(places)
    first = next(iter(cells.help))
    # What a section has nothing of would push aside what it has.
    shown = [name for name in cells.help if name == first or cells.cells[name].iloc[own].any()]
    numeric = [title for title in shown if is_numeric(cells.cells[title])]
    config = {}
    for title in shown:
        kind = st.column_config.NumberColumn if title in numeric else st.column_config.TextColumn
        config[title] = kind(
            title, help=cells.help[title], pinned=title == first, width=_width(cells, title)
        )
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    picked = st.dataframe(
        styled_cells(cells.cells[shown].iloc[own], cells.bold[shown].iloc[own], numeric),
        hide_index=True,
        placeholder="",
        height="content" if len(own) <= 40 else 720,
        column_config=config,
        on_select="rerun",
        selection_mode="single-row",
        key=f"rows-{digest}",
        alt=words,
    )
    return [own[row] for row in picked.selection.rows if row < len(own)]


def _width(cells: Shown, title: str) -> int:
    """Pixels that the longest cell and the head need: Streamlit itself measures no bold text."""
    sign = PIXELS_A_BOLD_SIGN if cells.bold[title].any() else PIXELS_A_SIGN
    longest = max(map(len, [title, *cells.cells[title]]))
    return min(longest * sign + PIXELS_AROUND, WIDEST)


def is_numeric(texts: pd.Series[str]) -> bool:
    """Whether a column has numbers and nothing else."""
    return bool(texts.any()) and all(NUMBER.match(text) for text in texts if text)


def styled_cells(texts: pd.DataFrame, bold: pd.DataFrame, numeric: Sequence[str]) -> Styler:
    """The cells with numbers as numbers, since a reader can sort by them, shown as their text."""
    frame = texts.reset_index(drop=True)
    weight = bold.reset_index(drop=True).map(lambda bold: "font-weight: 700" if bold else "")
    values = frame.assign(**{title: frame[title].map(_value) for title in numeric})
    styled = values.style.apply(lambda _: weight, axis=None)
    for title in numeric:
        texts_of: dict[float, set[str]] = {}
        there = [(place, _value(text), text) for place, text in enumerate(frame[title]) if text]
        for _, value, text in there:
            texts_of.setdefault(value, set()).add(text)
        said = {value: min(texts) for value, texts in texts_of.items()}
        styled = styled.format(partial(_looked_up, said), subset=[title], na_rep="")
        # Equal numbers that wear different marks are told apart cell by cell, which takes longer.
        for place, value, text in there:
            if len(texts_of[value]) > 1:
                styled = styled.format(partial(_said, text), subset=(place, title))
    return styled


def _looked_up(said: Mapping[float, str], value: object) -> str:
    return said[value] if isinstance(value, float) else ""


def _said(text: str, _: object) -> str:
    return text


def _value(text: str) -> float:
    found = NUMBER.match(text)
    return float(found[0]) if found else math.nan


def downloads(name: str, files: dict[str, str]) -> None:
    """A button a format."""
    with st.container(horizontal=True, gap="small"):
        for label, text in files.items():
            ending = ENDINGS[label]
            st.download_button(
                label,
                text,
                f"{download_name(name)}.{ending}",
                "text/csv" if ending == "csv" else "text/plain",
                key=f"download-{ending}",
                on_click="ignore",
                disabled=not text,
                help=f"The rows shown, as {label}.",
            )
