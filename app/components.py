"""What all pages share: the results folder, cached questions, widgets that live in the address."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd
import streamlit as st

from app import queries
from app.launch import RESULTS_VARIABLE
from harness.errors import UserError
from harness.store.database import DATABASE_NAME, Database
from leaderboards.build import in_folder

P = ParamSpec("P")
T = TypeVar("T")

# A page that waits longer is taken for hung; whoever holds the database so long is named instead.
WAIT_S = 8.0
SHOWN_OF_A_BAD_VALUE = 60
FIRST_METHODS = ("ikl", "trades", "pgd-at")

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~$:-])")


def results_folder() -> Path:
    """The folder that the app reads."""
    return Path(os.environ.get(RESULTS_VARIABLE, "results"))


def database() -> Database:
    """Its database, open only while a question is answered."""
    return Database(results_folder(), WAIT_S)


def has_database() -> bool:
    """Whether anything was ever recorded there."""
    return (results_folder() / DATABASE_NAME).exists()


def ask(question: Callable[..., T], *arguments: Any) -> T:
    """``question(database, *arguments)``; again only once the database has changed."""
    answer: T = _answered(
        question.__qualname__, _stamp(), str(results_folder()), arguments, _question=question
    )
    return answer


def ask_folder(question: Callable[..., T], *arguments: Any) -> T:
    """``question(*arguments, results folder)``; again only once the database has changed."""

    def ask_it(own: Database, *given: Any) -> T:
        # Whoever holds the database is met here, where the wait is short.
        if own.path.exists():
            own.query("SELECT 1")
        return question(*given, results_folder())

    answer: T = _answered(
        question.__qualname__, _stamp(), str(results_folder()), arguments, _question=ask_it
    )
    return answer


@st.cache_data(show_spinner=False, max_entries=128)
def _answered(
    name: str,
    stamp: tuple[int, ...],
    results: str,
    arguments: tuple[Any, ...],
    _question: Callable[..., Any],
) -> Any:
    return _question(Database(Path(results), WAIT_S), *arguments)


def _stamp() -> tuple[int, ...]:
    """What changes whenever the database does."""
    facts: list[int] = []
    for ending in ("", ".wal"):
        try:
            found = Path(f"{results_folder() / DATABASE_NAME}{ending}").stat()
            facts += [found.st_ino, found.st_mtime_ns, found.st_size]
        except FileNotFoundError:
            facts.append(0)
    return tuple(facts)


@contextmanager
def sentences() -> Iterator[None]:
    """Show a ``UserError`` as the sentence it is."""
    try:
        yield
    except UserError as error:
        st.error(plain(str(error)))


def plain(text: object) -> str:
    """Text that Markdown shows as it stands."""
    return _MARKDOWN.sub(r"\\\1", str(text))


def heading(title: str, words: str) -> None:
    """A page's title and what it is for."""
    st.title(title, anchor=False)
    st.caption(words)


def data_line() -> None:
    """How fresh the data is, on every page."""
    with sentences():
        if not has_database():
            st.caption(f"No results database in {plain(results_folder())}")
            return
        facts = ask(queries.overview)
        commit = f", newest code {facts['commit'][:9]}" if facts["commit"] else ""
        newest = f", newest of {when(facts['newest'])}" if facts["newest"] is not None else ""
        runs = f"{facts['runs']:,} run{'' if facts['runs'] == 1 else 's'}"
        st.caption(f"{runs}{newest}{commit} · {plain(results_folder())}")


def nothing_yet(words: str = "There are no results in this folder yet.") -> None:
    """What a page shows without results: a command that makes one which is not there yet."""
    here = ask(queries.methods) if has_database() else []
    method = next((name for name in FIRST_METHODS if name not in here), FIRST_METHODS[0])
    what = "a further run" if here else "the first run"
    st.info(f"{words} This command makes {what}, in three or four minutes on a laptop:")
    st.code(with_results(f"python -m harness run --method {method}"), language="bash")


def with_results(command: str) -> str:
    """A command as it must be typed for the folder that is shown."""
    return command if "--results" in command else in_folder(command, results_folder())


def when(moment: Any) -> str:
    """A UTC time to the minute, or nothing."""
    return "" if pd.isna(moment) else f"{pd.Timestamp(moment):%Y-%m-%d %H:%M} UTC"


def one_of(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    help: str | None = None,
    default: str | None = None,
    pills: bool = False,
) -> str:
    """A choice that is also the address's parameter ``key``.

    An address that asks for something else gets a sentence, and the default.
    """
    default = options[0] if default is None else default
    _complain(label, key, options, default)
    if pills:
        chosen = st.segmented_control(
            label,
            options,
            default=default,
            key=key,
            help=help,
            required=True,
            bind="query-params",
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
    """A choice whose default depends on the data, so that the address always names it.

    A link to it then shows the same when there are newer runs. ``titles`` are what a reader sees in
    the options' place; the address holds the options.
    """
    _complain(label, key, options, default)
    given = st.query_params.get(key)
    if titles is not None:
        # Streamlit would bind the title: the address is kept by hand.
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
    """Any of the options; none chosen is all of them."""
    _complain(label, key, options, "all")
    return st.multiselect(
        label, options, key=key, help=help, placeholder="all", bind="query-params"
    )


def search(label: str, *, key: str, help: str | None = None) -> str:
    """Words to look for, lower case."""
    return st.text_input(
        label, key=key, help=help, max_chars=100, placeholder="any", bind="query-params"
    ).lower()


def whole_number(label: str, low: int, high: int, value: int, *, key: str, help: str = "") -> int:
    """A number within bounds."""
    given = st.query_params.get(key)
    if given is not None and not (given.lstrip("-").isdigit() and low <= int(given) <= high):
        _refuse(label, given, str(value))
    return int(
        st.number_input(label, low, high, value, 1, key=key, help=help or None, bind="query-params")
    )


def switch(label: str, *, key: str, value: bool = False, help: str | None = None) -> bool:
    """A yes or no."""
    _complain(label, key, ("true", "false"), str(value).lower())
    return st.toggle(label, value, key=key, help=help, bind="query-params")


def _complain(label: str, key: str, options: Sequence[str], default: str) -> None:
    for given in st.query_params.get_all(key):
        if given not in options:
            _refuse(label, given, default)
            return


def _refuse(label: str, given: str, default: str) -> None:
    shown = given[:SHOWN_OF_A_BAD_VALUE] + ("..." if len(given) > SHOWN_OF_A_BAD_VALUE else "")
    st.warning(
        f"The address asks for {plain(label.lower())} “{plain(shown)}”, which there is not: "
        f"showing {plain(default)}."
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def percent(value: float | None) -> str:
    """A fraction as percent with two digits; a dash where there is none."""
    return "-" if value is None or pd.isna(value) else f"{100 * value:.2f}"


def interval(low: float | None, high: float | None) -> str:
    """A 95% interval in percent, or nothing."""
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return ""
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def download_name(*parts: object) -> str:
    """A file name of letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(str(part) for part in parts)).strip("-")
