"""Shared by all pages: the results folder, cached queries, tables, widgets bound to the URL."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
import streamlit as st

from app import address, queries
from app.launch import RESULTS_VARIABLE
from harness.errors import UserError
from harness.store.database import DATABASE_NAME, UNINDEXED, Database
from harness.store.text import counted
from leaderboards.build import in_folder
from leaderboards.render.escape import markdown

T = TypeVar("T")
# Escapes all Markdown characters in a text.
plain = markdown

# How long to wait for a locked database. After that, an error says what holds the lock.
WAIT_S = 8.0
# The footer waits less, since nothing else on the page needs it.
FOOTER_WAIT_S = 0.2
TROUBLE = "trouble with the results database"
REMARKS = "place of remarks on the address"
MAX_PINNED_PIXELS = 190
SUGGESTED_METHODS = ("ikl", "trades", "pgd-at")


def results_folder() -> Path:
    """The folder that the app reads."""
    return Path(os.environ.get(RESULTS_VARIABLE, "results"))


def begin() -> None:
    """Reset what an earlier run of the page or its fragment stored on database and heading."""
    for name in (TROUBLE, REMARKS):
        st.session_state.pop(name, None)


def has_database() -> bool:
    """Whether the folder has a results database that can be read.

    If it is locked, damaged or written by a later release, the page waits once, shows one error
    here, and then the parts that need no database.
    """
    if not (results_folder() / DATABASE_NAME).exists():
        return False
    if TROUBLE not in st.session_state:
        st.session_state[TROUBLE] = False
        try:
            query(queries.overview)
        except UserError as error:
            st.session_state[TROUBLE] = True
            st.error(plain(str(error)))
    return not st.session_state[TROUBLE]


def query(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """``function(database, *arguments, **options)``, cached until the database changes."""
    results = str(results_folder())
    answer: T = _cached(
        function.__qualname__, _stamp(), results, arguments, options, function, WAIT_S
    )
    return answer


def query_folder(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments, results folder)``, cached until the database changes.

    The folder is None if its database cannot be read.
    """
    results = results_folder()
    if (results / DATABASE_NAME).exists() and not has_database():
        return function(*arguments, None)

    def with_folder(_: Database, *arguments: Any) -> T:
        return function(*arguments, results)

    answer: T = _cached(
        function.__qualname__, _stamp(), str(results), arguments, {}, with_folder, WAIT_S
    )
    return answer


@st.cache_data(show_spinner=False, max_entries=128)
def _cached(
    name: str,
    stamp: tuple[int | str, ...],
    results: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    _function: Callable[..., Any],
    _wait_s: float,
) -> Any:
    return _function(Database(Path(results), _wait_s), *arguments, **options)


def _stamp() -> tuple[int | str, ...]:
    """Facts that differ after every change of the database and of the runs to be stored in it.

    A run that could not be stored leaves a mark, and only a query that is not cached stores it.
    """
    facts: list[int | str] = []
    for ending in ("", ".wal"):
        try:
            found = Path(f"{results_folder() / DATABASE_NAME}{ending}").stat()
            facts += [found.st_ino, found.st_mtime_ns, found.st_size]
        except OSError:
            facts.append(0)
    return *facts, *sorted(mark.name for mark in (results_folder() / UNINDEXED).glob("[!.]*"))


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Show a ``UserError`` as a message on the page."""
    try:
        yield
    except UserError as error:
        st.error(plain(str(error)))


def heading(title: str, caption: str) -> None:
    """Show a page's title and purpose."""
    st.title(title, anchor=False)
    st.caption(caption)
    # Warnings about the URL must be visible even if their widget is in a closed expander.
    st.session_state[REMARKS] = st.container()


def footer() -> None:
    """Show the number of runs, the age of the data and its folder at the end of every page."""
    folder = plain(results_folder())
    if not (results_folder() / DATABASE_NAME).exists():
        st.caption(f"No results database in {folder}")
        return
    if st.session_state.get(TROUBLE):
        st.caption(folder)
        return
    name = queries.overview.__qualname__
    try:
        facts = _cached(
            name, _stamp(), str(results_folder()), (), {}, queries.overview, FOOTER_WAIT_S
        )
    except UserError:
        st.caption(f"The results database cannot be read now · {folder}")
        return
    runs = counted(facts["runs"], "run")
    newest = f", newest from {when(facts['newest'])}" if facts["newest"] is not None else ""
    commit = f", code at commit {facts['commit'][:9]}" if facts["commit"] else ""
    st.caption(f"{runs}{newest}{commit} · {folder}")


def nothing_yet(message: str = "There are no results in this folder yet.") -> None:
    """Show a message for a page without results, with the command for a run not made yet.

    Show nothing if the database cannot be read, since there is an error on the page already.
    """
    if st.session_state.get(TROUBLE):
        return
    here = query(queries.methods) if has_database() else []
    method = next((name for name in SUGGESTED_METHODS if name not in here), SUGGESTED_METHODS[0])
    which = "another run" if here else "a first run"
    st.info(f"{message} This command makes {which} and takes three or four minutes on a laptop:")
    st.code(with_results(f"python -m harness run --method {method}"), language=None)


def with_results(command: str) -> str:
    """Add the ``--results`` option to a command if the folder shown needs it."""
    return command if "--results" in command else in_folder(command, results_folder())


def text_column(title: str, help: str, **options: Any) -> Any:
    """A column of text; ``options`` as ``st.column_config.TextColumn`` takes them."""
    return st.column_config.TextColumn(title, help=help, **options)


def number_column(title: str, help: str, format: str | None = None) -> Any:
    """A column of numbers, in a printf format such as ``%.2f``."""
    return st.column_config.NumberColumn(title, help=help, format=format)


def show_table(frame: Any, columns: Mapping[str, Any], alt: str, **options: Any) -> Any:
    """Show the named columns of a frame or Styler, in the order of ``columns``.

    ``alt`` describes the table to screen readers; ``options`` are those of ``streamlit.dataframe``.
    """
    return st.dataframe(
        frame,
        hide_index=True,
        placeholder="",
        column_config={name: _narrow(frame, name, column) for name, column in columns.items()},
        column_order=list(columns),
        alt=alt,
        **options,
    )


def show_chart(chart: Any, alt: str, **options: Any) -> Any:
    """Show an Altair chart with text in a colour that is readable on this page's background.

    ``alt`` describes the chart to screen readers; ``options`` are those of
    ``streamlit.altair_chart``.
    """
    return st.altair_chart(_readable(chart), alt=alt, **options)


def frame_spec(chart: Any) -> dict[str, Any]:
    """A chart's specification without its data, for ``show_frame`` to show frame by frame."""
    spec: dict[str, Any] = _readable(chart).to_dict()
    del spec["data"], spec["datasets"]
    return spec


def show_frame(spec: dict[str, Any], data: pd.DataFrame, alt: str) -> None:
    """Show a chart with some data; if only the data differ, the browser just moves the marks."""
    st.vega_lite_chart(data, spec, alt=alt)


def _readable(chart: Any) -> Any:
    ink = "#c3ccd5" if st.context.theme.type == "dark" else "#47525e"
    names = {"labelColor": ink, "titleColor": ink}
    shown = chart.configure_axis(**names).configure_legend(**names).configure_header(**names)
    return shown.configure_text(color=ink)


def _narrow(frame: Any, name: str, column: Any) -> Any:
    """Limit a pinned column's width, so that a phone has room for numbers next to it."""
    if not isinstance(frame, pd.DataFrame) or not column.get("pinned") or column.get("width"):
        return column
    longest = frame[name].astype(str).str.len().max() if len(frame) else 0
    return column | {"width": int(min(MAX_PINNED_PIXELS, 24 + 8 * max(longest, 8)))}


def one_of(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    help: str | None = None,
    default: str | None = None,
    pills: bool = False,
) -> str:
    """A selection bound to the URL parameter ``key``.

    For any other value in the URL, show a warning and take the default.
    """
    default = options[0] if default is None else default
    _check_url(label, key, options, default)
    if pills:
        chosen = st.segmented_control(
            label, options, default=default, key=key, help=help, required=True, bind="query-params"
        )
        return default if chosen is None else chosen
    index = options.index(default)
    return st.selectbox(label, options, index, key=key, help=help, bind="query-params")


def one_named(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    default: str,
    help: str | None = None,
    titles: Mapping[str, str] | None = None,
    label_visibility: Literal["visible", "collapsed"] = "visible",
) -> str:
    """A selection whose default depends on the data, so that the URL always names it.

    A link then shows the same even after newer runs. ``titles`` maps each option to the text shown;
    the URL holds the option.
    """
    widget = f"{key}-choice"
    # Once that widget is there, the URL has its last value, which another may have ruled out.
    if titles is None or widget not in st.session_state:
        _check_url(label, key, options, default)
    given = st.query_params.get(key)
    if titles is not None:
        # Streamlit would put the title into the URL, so the URL is set by hand.
        if st.session_state.get(widget) not in options:
            st.session_state[widget] = given if given in options else default
        picked = st.selectbox(
            label,
            options,
            key=widget,
            help=help,
            format_func=titles.__getitem__,
            label_visibility=label_visibility,
        )
        st.query_params[key] = picked
        return picked
    if given not in options and st.session_state.get(key) not in options:
        st.session_state[key] = default
    chosen = st.selectbox(label, options, index=None, key=key, help=help, bind="query-params")
    return default if chosen is None else chosen


def some_of(label: str, options: Sequence[str], *, key: str, help: str | None = None) -> list[str]:
    """Any number of the options; an empty selection means all."""
    _check_url(label, key, options, "all")
    return st.multiselect(
        label, options, key=key, help=help, placeholder="all", bind="query-params"
    )


def search(label: str, *, key: str, help: str | None = None) -> str:
    """A text to search for, in lower case."""
    return st.text_input(
        label, key=key, help=help, max_chars=100, placeholder="any", bind="query-params"
    ).lower()


def whole_number(label: str, low: int, high: int, value: int, *, key: str, help: str = "") -> int:
    """An integer in [low, high]."""
    bind = _bind_number(label, low, high, value, key)
    return int(st.number_input(label, low, high, value, 1, key=key, help=help or None, bind=bind))


def slider(label: str, low: float, high: float, value: float, step: float, *, key: str) -> float:
    """A number in [low, high]."""
    bind = _bind_number(label, low, high, value, key)
    return float(st.slider(label, low, high, value, step, key=key, bind=bind))


def switch(label: str, *, key: str, value: bool = False, help: str | None = None) -> bool:
    """A switch, on or off."""
    _check_url(label, key, ("true", "false"), str(value).lower())
    return st.toggle(label, value, key=key, help=help, bind="query-params")


def _check_url(label: str, key: str, options: Sequence[str], default: str) -> None:
    _warn(label, address.wrong_choice(st.query_params.get_all(key), options), default)


def _bind_number(
    label: str, low: float, high: float, default: float, key: str
) -> Literal["query-params"] | None:
    """How to bind a number widget: not at all for now if Streamlit would fail on the URL.

    Streamlit drops values that are not numbers, but fails on numbers too large for a float.
    """
    wrong = address.wrong_number(st.query_params.get_all(key), low, high)
    if wrong is None:
        return "query-params"
    _warn(label, wrong, f"{default:g}")
    with suppress(ValueError):
        if not math.isfinite(float(wrong)):
            del st.query_params[key]
            return None
    return "query-params"


def _warn(label: str, wrong: str | None, default: str) -> None:
    if wrong is not None:
        st.session_state.get(REMARKS, st).warning(
            f"The URL asks for {plain(label.lower())} {plain(address.quoted(wrong))}, which "
            f"cannot be chosen here: showing {plain(default)}."
        )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as dictionaries by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def when(moment: Any) -> str:
    """A UTC time to the minute; empty if missing."""
    return "" if pd.isna(moment) else f"{pd.Timestamp(moment):%Y-%m-%d %H:%M} UTC"


def class_name(names: Sequence[str], label: Any) -> str:
    """A class's name, or its number if it has no name; empty for a missing label."""
    if pd.isna(label):
        return ""
    return names[int(label)] if int(label) < len(names) else str(int(label))
