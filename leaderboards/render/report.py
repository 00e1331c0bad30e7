"""The tables in every format, and as a static site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from harness.errors import UserError
from harness.store.database import Database
from harness.store.files import make_folder, write_bytes_atomic
from harness.store.text import counted
from leaderboards.build import FIELDS, SMALL_NAME, field, named, small, table, tables
from leaderboards.render.bibtex import to_bibtex
from leaderboards.render.data import to_csv, to_json
from leaderboards.render.html import site, to_html
from leaderboards.render.latex import to_latex
from leaderboards.render.markdown import to_markdown
from leaderboards.render.terminal import print_table
from leaderboards.table import Table

TEXT: dict[str, Callable[[Table], str]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "html": to_html,
    "json": to_json,
    "bibtex": to_bibtex,
}
# Formats that make one document from several tables.
WHOLE: dict[str, Callable[..., str]] = {"html": to_html, "bibtex": to_bibtex}
ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}
FORMATS = ("terminal", *TEXT)
NEWEST = """
SELECT count(*), max(coalesce(finished_at, started_at)),
       arg_max_null(git_commit, coalesce(finished_at, started_at))
FROM runs
"""


def print_report(name: str, format_: str, results: Path | None, console: Console) -> None:
    """Print the tables with a name in one of ``FORMATS``.

    In JSON, ``small`` is a list of tables; in CSV, the tables follow each other under one header;
    in HTML and BibTeX, they are one document.

    Args:
        name: ``2``, ``field-cifar10`` or ``small``.
        format_: one of ``FORMATS``.
        results: the results folder; None for printed numbers only.
        console: the console to print to.

    Raises:
        UserError: there is no such table or format, or the database cannot be read.
    """
    if format_ not in FORMATS:
        raise UserError(f"there is no format {format_!r}: choose one of {', '.join(FORMATS)}")
    if name == SMALL_NAME and results is None:
        raise UserError(f"no number of the table {name} is printed: leave out --printed-only")
    shown = named(name, results)
    if format_ == "terminal":
        for number, each in enumerate(shown):
            if number:
                console.print()
            print_table(each, console)
        return
    if format_ in WHOLE:
        console.file.write(WHOLE[format_](*shown))
        return
    texts = [text_of(each, format_, printed_only=results is None) for each in shown]
    if name == SMALL_NAME and format_ == "json":
        console.file.write(f"[{','.join(texts)}]\n")
    elif format_ == "csv":
        # The header line appears once.
        console.file.write(texts[0] + "".join(text.partition("\n")[2] for text in texts[1:]))
    else:
        console.file.write("\n".join(texts))


def text_of(shown: Table, format_: str, *, printed_only: bool = False) -> str:
    """Return a table as text; with ``printed_only``, LaTeX has only what the paper prints."""
    if format_ == "latex" and printed_only:
        return to_latex(shown, ours=False)
    return TEXT[format_](shown)


def write_site(out: Path, results: Path | None) -> list[Path]:
    """Write all tables as one page and as separate files; return the paths, the page first.

    No file contains a path of this machine.

    Raises:
        UserError: the folder cannot be written, or the database cannot be read.
    """
    make_folder(out)
    shown = []
    for title in tables():
        shown.append(table(title.number, results, name_folder=False))
        if title.number in FIELDS.values():
            shown.append(field(title.number, results, name_folder=False))
    if results is not None:
        shown += small(results)
    page = site(shown, tuple(ENDINGS.values()), made_from(results))
    texts = {"index.html": page} | {
        f"{one.anchor}.{ending}": text_of(one, format_, printed_only=results is None)
        for one in shown
        for format_, ending in ENDINGS.items()
    }
    for name, text in texts.items():
        write_bytes_atomic(text.encode(), out / name)
    return [out / name for name in texts]


def made_from(results: Path | None) -> str:
    """Return a sentence with the number of runs and the newest run's date and commit."""
    if results is None or not Database(results).path.exists():
        return "Made by DivergenceBench from printed numbers only."
    _, ((runs, newest, commit),) = Database(results).fetch(NEWEST)
    made = f"Made by DivergenceBench from {counted(runs, 'run')}"
    made += f", the newest from {newest:%Y-%m-%d}" if newest is not None else ""
    return f"{made}, with code at commit {commit[:9]}." if commit else f"{made}."
