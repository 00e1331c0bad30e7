"""What all pages share: the results folder, cached queries, tables, widgets bound to the URL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
import streamlit as st

from app import queries
from app.launch import RESULTS_VARIABLE
from harness.errors import UserError
from harness.store.database import DATABASE_NAME, Database
from leaderboards.build import in_folder

T = TypeVar("T")

# A page that waits longer looks hung; after that an error names the program with the lock.
WAIT_S = 8.0
MAX_SHOWN_VALUE = 60
SUGGESTED_METHODS = ("ikl", "trades", "pgd-at")

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~$:-])")


def results_folder() -> Path:
    """The folder that the app reads."""
    return Path(os.environ.get(RESULTS_VARIABLE, "results"))


def has_database() -> bool:
    """Whether the folder has a results database."""
    return (results_folder() / DATABASE_NAME).exists()


def query(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """``function(database, *arguments, **options)``, cached until the database changes."""
    results = str(results_folder())
    answer: T = _cached(function.__qualname__, _stamp(), results, arguments, options, function)
    return answer


def query_folder(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments, results folder)``, cached until the database changes."""

    def with_folder(database: Database, *arguments: Any) -> T:
        # A locked database is found here, where the wait is short.
        if database.path.exists():
            database.query("SELECT 1")
        return function(*arguments, results_folder())

    results = str(results_folder())
    answer: T = _cached(function.__qualname__, _stamp(), results, arguments, {}, with_folder)
    return answer


@st.cache_data(show_spinner=False, max_entries=128)
def _cached(
    name: str,
    stamp: tuple[int, ...],
    results: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    _function: Callable[..., Any],
) -> Any:
    return _function(Database(Path(results), WAIT_S), *arguments, **options)


def _stamp() -> tuple[int, ...]:
    """File facts that differ after every change of the database."""
    facts: list[int] = []
    for ending in ("", ".wal"):
        try:
            found = Path(f"{results_folder() / DATABASE_NAME}{ending}").stat()
            facts += [found.st_ino, found.st_mtime_ns, found.st_size]
        except FileNotFoundError:
            facts.append(0)
    return tuple(facts)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Show a ``UserError`` as a message on the page."""
    try:
        yield
    except UserError as error:
        st.error(plain(str(error)))


def plain(text: object) -> str:
    """Text with every Markdown sign escaped."""
    return _MARKDOWN.sub(r"\\\1", str(text))


def heading(title: str, caption: str) -> None:
    """A page's title and purpose."""
    st.title(title, anchor=False)
    st.caption(caption)


def footer() -> None:
    """The number of runs, the age of the data and its folder, at the end of every page."""
    with errors_as_messages():
        if not has_database():
            st.caption(f"No results database in {plain(results_folder())}")
            return
        facts = query(queries.overview)
        runs = f"{facts['runs']:,} run{'' if facts['runs'] == 1 else 's'}"
        newest = f", newest from {when(facts['newest'])}" if facts["newest"] is not None else ""
        commit = f", code at commit {facts['commit'][:9]}" if facts["commit"] else ""
        st.caption(f"{runs}{newest}{commit} · {plain(results_folder())}")


def nothing_yet(message: str = "There are no results in this folder yet.") -> None:
    """A message for a page without results, with the command that makes a run not yet there."""
    here = query(queries.methods) if has_database() else []
    method = next((name for name in SUGGESTED_METHODS if name not in here), SUGGESTED_METHODS[0])
    which = "another run" if here else "a first run"
    st.info(f"{message} This command makes {which}, in three or four minutes on a laptop:")
    st.code(with_results(f"python -m harness run --method {method}"), language="bash")


def with_results(command: str) -> str:
    """A command with the ``--results`` option that the folder shown needs."""
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
        column_config=dict(columns),
        column_order=list(columns),
        alt=alt,
        **options,
    )


def one_of(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    help: str | None = None,
    default: str | None = None,
    pills: bool = False,
) -> str:
    """A choice bound to the URL parameter ``key``.

    A URL with any other value gets a warning and the default.
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
) -> str:
    """A choice whose default depends on the data, so that the URL always names it.

    A link then shows the same after newer runs. ``titles`` maps each option to the text shown; the
    URL holds the option.
    """
    _check_url(label, key, options, default)
    given = st.query_params.get(key)
    if titles is not None:
        # Streamlit would put the title into the URL, so the URL is set by hand.
        widget = f"{key}-choice"
        if st.session_state.get(widget) not in options:
            st.session_state[widget] = given if given in options else default
        picked = st.selectbox(label, options, key=widget, help=help, format_func=titles.__getitem__)
        st.query_params[key] = picked
        return picked
    if given not in options and st.session_state.get(key) not in options:
        st.session_state[key] = default
    chosen = st.selectbox(label, options, index=None, key=key, help=help, bind="query-params")
    return default if chosen is None else chosen


def some_of(label: str, options: Sequence[str], *, key: str, help: str | None = None) -> list[str]:
    """Any number of the options; an empty choice means all."""
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
    given = st.query_params.get(key)
    is_number = given is not None and re.fullmatch(r"-?[0-9]{1,18}", given)
    is_valid = given is None or bool(is_number and low <= int(given) <= high)
    if given is not None and not is_valid:
        _warn_url(label, given, str(value))
        # Of an infinite number in the address Streamlit raises an error.
        del st.query_params[key]
    bind: Literal["query-params"] | None = "query-params" if is_valid else None
    return int(st.number_input(label, low, high, value, 1, key=key, help=help or None, bind=bind))


def switch(label: str, *, key: str, value: bool = False, help: str | None = None) -> bool:
    """A switch, on or off."""
    _check_url(label, key, ("true", "false"), str(value).lower())
    return st.toggle(label, value, key=key, help=help, bind="query-params")


def _check_url(label: str, key: str, options: Sequence[str], default: str) -> None:
    for given in st.query_params.get_all(key):
        if given not in options:
            _warn_url(label, given, default)
            return


def _warn_url(label: str, given: str, default: str) -> None:
    shown = given[:MAX_SHOWN_VALUE] + ("..." if len(given) > MAX_SHOWN_VALUE else "")
    st.warning(
        f"The address asks for {plain(label.lower())} “{plain(shown)}”, which does not exist: "
        f"showing {plain(default)}."
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as dictionaries by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def when(moment: Any) -> str:
    """A UTC time to the minute; empty where there is none."""
    return "" if pd.isna(moment) else f"{pd.Timestamp(moment):%Y-%m-%d %H:%M} UTC"
