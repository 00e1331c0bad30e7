"""The tables in every format, and as a static site."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from rich.console import Console

from harness.errors import UserError
from harness.store.files import make_folder, write_bytes_atomic
from leaderboards.build import table, tables
from leaderboards.render.data import to_csv, to_json
from leaderboards.render.html import fragment, page, to_html
from leaderboards.render.latex import to_latex
from leaderboards.render.markdown import to_markdown
from leaderboards.render.plots import points_of, scatter
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

# Plots of the site: table, the columns across and up, their titles, whether less across is better.
PLOTS = {
    2: (("clean", "aa", "Clean accuracy, percent", "AutoAttack accuracy, percent", False),),
    3: tuple(
        (f"{pair}/time", pair, "Seconds an iteration", f"Top-1 of {student}, percent", True)
        for pair, student in (
            ("resnet34/resnet18", "ResNet18"),
            ("resnet50/mobilenetv1", "MobileNetV1"),
        )
    ),
    4: (("clean", "aa", "Clean accuracy, percent", "AutoAttack accuracy, percent", False),),
}


def print_report(number: int, format_: str, results: Path | None, console: Console) -> None:
    """Print one table.

    Args:
        number: 1 to 9.
        format_: one of ``FORMATS``.
        results: the results folder; None for the printed numbers alone.
        console: where to print.

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
    """A table as text; in LaTeX, ``printed_only`` sets it as the paper does."""
    if format_ == "latex" and printed_only:
        return to_latex(shown, ours=False)
    return TEXT[format_](shown)


def write_site(out: Path, results: Path | None) -> list[Path]:
    """Write all tables as one page and as files beside it; gives the files.

    Raises:
        UserError: the folder cannot be written, or the database cannot be read.
    """
    make_folder(out)
    shown = [table(title.number, results) for title in tables()]
    written = []
    for one in shown:
        for format_, ending in ENDINGS.items():
            path = out / f"table-{one.number}.{ending}"
            text = text_of(one, format_, printed_only=results is None)
            write_bytes_atomic(text.encode(), path)
            written.append(path)
    index = out / "index.html"
    write_bytes_atomic(page("DivergenceBench: leaderboards", _index(shown)).encode(), index)
    return [index, *written]


def _index(shown: list[Table]) -> str:
    links = "".join(
        f'<li><a href="#table-{one.number}">Table {one.number}: {escape(one.title)}</a></li>'
        for one in shown
    )
    head = (
        "<h1>DivergenceBench: leaderboards</h1>"
        '<p>The tables of <a href="https://arxiv.org/abs/2305.13948">Decoupled Kullback-Leibler '
        "Divergence Loss</a> with every printed number, and beside them what was measured here. "
        "A letter says where a number comes from; small scale is never ranked with the paper's."
        f"</p><ul>{links}</ul>"
    )
    return head + "\n".join(_with_plots(one) for one in shown)


def _with_plots(shown: Table) -> str:
    plots = [
        scatter(points_of(shown, x, y), x_title, y_title, less_is_better=less)
        for x, y, x_title, y_title, less in PLOTS.get(shown.number, ())
    ]
    files = ", ".join(
        f'<a href="table-{shown.number}.{ending}">{ending}</a>' for ending in ENDINGS.values()
    )
    return f'{fragment(shown)}\n{"".join(plots)}\n<p class="dim">Files: {files}</p>'
