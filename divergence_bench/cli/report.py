"""The verbs ``report`` and ``leaderboards``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from rich.console import Console
from typer import Argument, Option

from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import print_result
from harness.errors import UserError
from harness.registry import METHODS
from harness.store.rundir import find_run
from leaderboards import robustbench
from leaderboards.render.report import print_report, write_site

leaderboards = opt.plain_typer(help="Entries of public leaderboards.")
import_ = opt.plain_typer(help="Load published entries beside ours.")
export = opt.plain_typer(help="Write ours in the form of a public leaderboard.")
leaderboards.add_typer(import_, name="import")
leaderboards.add_typer(export, name="export")


def report(
    table: Annotated[
        str | None, Option(help="1 to 9 of the paper, small, field-cifar10 or field-cifar100.")
    ] = None,
    format_: Annotated[
        str, Option("--format", help="terminal, markdown, latex, csv, html, json or bibtex.")
    ] = "terminal",
    printed_only: Annotated[
        bool, Option("--printed-only", help="The printed numbers, without ours.")
    ] = False,
    all_: Annotated[
        bool, Option("--all", help="All tables as a static site; needs --out.")
    ] = False,
    out: Annotated[Path | None, Option(help="Folder of the site.")] = None,
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Show a table of the paper with our numbers beside the printed ones."""
    source = None if printed_only else results
    if all_:
        if out is None:
            raise UserError("report --all writes a site: give --out DIR")
        written = write_site(out, source)
        text = f"{len(written)} files; open {written[0]}"
        print_result([str(path) for path in written], text, as_json=as_json)
    elif table is None:
        raise UserError("no table is given: give --table, such as 2 or small, or --all with --out")
    else:
        print_report(table, "json" if as_json else format_, source, Console())


@import_.command("robustbench")
def import_robustbench(
    folder: Annotated[Path, Argument(help="model_info of a RobustBench checkout.")],
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Load RobustBench's published entries, in place of those loaded before."""
    found = robustbench.import_folder(folder, results)
    text = "\n".join([f"{found.entries} entries loaded", *found.remarks])
    print_result(asdict(found), text, as_json=as_json)


@export.command("robustbench")
def export_robustbench(
    run: Annotated[str, Argument(help="A run.")],
    out: Annotated[Path, Option(help="File to write, such as Me2026Mine.json.")],
    name: Annotated[str | None, Option(help="The paper's title.")] = None,
    authors: Annotated[str | None, Option(help="The paper's authors: A B, C D.")] = None,
    link: Annotated[str | None, Option(help="The paper's address.")] = None,
    venue: Annotated[str | None, Option(help="Such as ICML 2023.")] = None,
    architecture: Annotated[str | None, Option(help="Such as WideResNet-34-10.")] = None,
    reported: Annotated[str | None, Option(help="The paper's robust accuracy.")] = None,
    footnote: Annotated[str | None, Option(help="A remark on the entry.")] = None,
    additional_data: Annotated[
        bool | None, Option(help="Whether further real images were trained on.")
    ] = None,
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Write a run as a RobustBench entry; what is not given comes from the method."""
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
    entry = robustbench.export_run(
        results, directory.run_id, out, metadata=metadata, bibtex=card.bibtex if card else ""
    )
    print_result(entry.to_json(), f"written to {out}", as_json=as_json)
