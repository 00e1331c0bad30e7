"""Verbs of the command line that read results: report, sql, leaderboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from divergence_bench.cli.answer_view import print_answer
from divergence_bench.cli.sql import ask, schema
from harness.errors import UserError
from harness.registry import METHODS, REPORTS
from harness.store.rundir import find_run

Results = Annotated[Path, typer.Option(help="Folder of run directories and database.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

leaderboards = typer.Typer(help="Entries of public leaderboards.", no_args_is_help=True)
import_ = typer.Typer(help="Load published entries beside ours.", no_args_is_help=True)
export = typer.Typer(help="Write ours in the form of a public leaderboard.", no_args_is_help=True)
leaderboards.add_typer(import_, name="import")
leaderboards.add_typer(export, name="export")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(report)
    app.command()(sql)
    app.add_typer(leaderboards, name="leaderboards")


def report(
    table: Annotated[int | None, typer.Option(help="A table of the paper, 1 to 9.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="terminal, markdown, latex, csv, html or json.")
    ] = "terminal",
    printed_only: Annotated[
        bool, typer.Option("--printed-only", help="The printed numbers, without ours.")
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="All tables as a static site; needs --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the site.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Show a table of the paper with our numbers beside the printed ones."""
    source = None if printed_only else results
    if all_:
        if out is None:
            raise UserError("report --all writes a site: give --out DIR")
        written = REPORTS.get("site")(out, source)
        if as_json:
            print(json.dumps([str(path) for path in written]))
        else:
            print(f"{len(written)} files; open {written[0]}")
        return
    if table is None:
        raise UserError("nothing says which table: give --table 1 to 9, or --all with --out DIR")
    REPORTS.get("table")(table, "json" if as_json else format_, source, Console())


def sql(
    query: Annotated[str | None, typer.Argument(help='Such as "select * from runs".')] = None,
    show_schema: Annotated[
        bool, typer.Option("--schema", help="Print every table and column with its meaning.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Ask the results database in SQL; it is only read."""
    if show_schema:
        answer = schema()
    elif query is not None:
        answer = ask(results, query)
    else:
        raise UserError("nothing is asked: give an SQL statement, or --schema")
    print_answer(answer, as_json=as_json, as_csv=as_csv, wrap=show_schema)


@import_.command("robustbench")
def import_robustbench(
    folder: Annotated[Path, typer.Argument(help="model_info of a RobustBench checkout.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Load RobustBench's published entries, in place of those loaded before."""
    count = REPORTS.get("import-robustbench")(folder, results)
    print(json.dumps({"entries": count}) if as_json else f"{count} entries loaded")


@export.command("robustbench")
def export_robustbench(
    run: Annotated[str, typer.Argument(help="A run.")],
    out: Annotated[Path, typer.Option(help="File to write, such as Me2026Mine.json.")],
    name: Annotated[str | None, typer.Option(help="The paper's title.")] = None,
    authors: Annotated[str | None, typer.Option(help="The paper's authors: A B, C D.")] = None,
    link: Annotated[str | None, typer.Option(help="The paper's address.")] = None,
    venue: Annotated[str | None, typer.Option(help="Such as ICML 2023.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Such as WideResNet-34-10.")] = None,
    reported: Annotated[str | None, typer.Option(help="The paper's robust accuracy.")] = None,
    footnote: Annotated[str | None, typer.Option(help="A remark on the entry.")] = None,
    additional_data: Annotated[
        bool | None, typer.Option(help="Whether further real images were trained on.")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a run as RobustBench keeps its entries; what is not given comes from the method."""
    directory = find_run(results, run)
    method = str(directory.record.get("method") or "")
    card = METHODS.get(method).card if method in METHODS else None
    metadata = {
        "name": name,
        "authors": authors,
        "link": link or (card.url if card else None),
        "venue": venue,
        "architecture": architecture,
        "reported": reported,
        "footnote": footnote,
        "additional_data": additional_data,
    }
    entry = REPORTS.get("export-robustbench")(
        results, directory.run_id, out, metadata=metadata, bibtex=card.bibtex if card else ""
    )
    print(json.dumps(entry.to_json(), indent=2) if as_json else f"written to {out}")
