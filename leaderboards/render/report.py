"""The tables in every format, and as a static site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from harness.errors import UserError
from harness.store.files import make_folder, write_bytes_atomic
from leaderboards.build import table, tables
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
}
ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}
FORMATS = ("terminal", *TEXT)


def print_report(number: int, format_: str, results: Path | None, console: Console) -> None:
    """Print one table in one of ``FORMATS``; without a results folder, printed numbers alone.

    Raises:
        UserError: there is no such table or format, or the database cannot be read.
    """
    if format_ not in FORMATS:
        raise UserError(f"there is no format {format_!r}: choose one of {', '.join(FORMATS)}")
    shown = table(number, results)
    if format_ == "terminal":
        print_table(shown, console)
    else:
        console.file.write(text_of(shown, format_, printed_only=results is None))


def text_of(shown: Table, format_: str, *, printed_only: bool = False) -> str:
    """A table as text; with ``printed_only`` LaTeX is as the paper has it."""
    if format_ == "latex" and printed_only:
        return to_latex(shown, ours=False)
    return TEXT[format_](shown)


def write_site(out: Path, results: Path | None) -> list[Path]:
    """Write all tables as one page and as files beside it; returns the paths, the page first.

    Raises:
        UserError: the folder cannot be written, or the database cannot be read.
    """
    make_folder(out)
    shown = [table(title.number, results) for title in tables()]
    page = site("DivergenceBench: leaderboards", shown, tuple(ENDINGS.values()))
    texts = {"index.html": page} | {
        f"table-{one.number}.{ending}": text_of(one, format_, printed_only=results is None)
        for one in shown
        for format_, ending in ENDINGS.items()
    }
    for name, text in texts.items():
        write_bytes_atomic(text.encode(), out / name)
    return [out / name for name in texts]
