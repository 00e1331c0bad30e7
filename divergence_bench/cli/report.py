"""The commands ``report`` and ``leaderboards``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import new_console, print_result
from harness.errors import UserError
from harness.registry import METHODS
from harness.store.rundir import find_run
from harness.store.text import counted

ENTRY = "Entry"

leaderboards = opt.new_typer(help="Entries of public leaderboards.")
import_ = opt.new_typer(help="Load published entries, to show next to ours.")
export = opt.new_typer(help="Export ours as entries of a public leaderboard.")
leaderboards.add_typer(import_, name="import")
leaderboards.add_typer(export, name="export")


def report(
    context: typer.Context,
    table: Annotated[
        str | None,
        opt.value(
            "NAME",
            "1 to 9 (of the paper), small, field-cifar10 or field-cifar100.",
            opt.SELECTION,
            complete=completion.reports,
        ),
    ] = None,
    format_: Annotated[
        str,
        opt.value(
            "NAME",
            "terminal, markdown, latex, csv, html, json or bibtex.",
            opt.SELECTION,
            complete=completion.formats,
            flag="--format",
        ),
    ] = "terminal",
    printed_only: Annotated[
        bool,
        opt.flag("--printed-only", "Show the printed numbers without ours.", opt.SELECTION),
    ] = False,
    all_: Annotated[
        bool,
        opt.flag("--all", "Write all tables as a static site; needs --out.", opt.SELECTION),
    ] = False,
    out: Annotated[
        Path | None,
        opt.value("DIR", "Folder to write the site to.", opt.STORAGE),
    ] = None,
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Show a table of the paper with our numbers next to the printed ones."""
    from leaderboards.render.report import print_report, write_site

    if printed_only:
        opt.refuse_unused(context, {"results": "with --printed-only"})
    source = None if printed_only else results
    if all_:
        if out is None:
            raise UserError("report --all writes a site: give --out DIR")
        opt.refuse_unused(context, dict.fromkeys(("table", "format_"), "with --all"))
        written = write_site(out, source)
        text = f"{counted(len(written), 'file')}; open {written[0]}"
        print_result([str(path) for path in written], text, as_json=as_json)
    elif table is None:
        raise UserError("no table is given: give --table, such as 2 or small, or --all with --out")
    else:
        opt.refuse_unused(context, {"out": "without --all, which writes a site"})
        if as_json:
            opt.refuse_unused(context, {"format_": "with --json"})
        print_report(table, "json" if as_json else format_, source, new_console())


@import_.command("robustbench")
def import_robustbench(
    folder: Annotated[Path, Argument(help="The model_info folder of a RobustBench checkout.")],
    results: opt.Results = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Load RobustBench's published entries, replacing those loaded before."""
    from leaderboards import robustbench

    found = robustbench.import_folder(folder, results)
    text = "\n".join([f"{found.entries} entries loaded", *found.remarks])
    print_result(asdict(found), text, as_json=as_json)


@export.command("robustbench")
def export_robustbench(
    run: opt.Run,
    out: Annotated[
        Path,
        opt.value("FILE", "File to write, such as Me2026Mine.json.", opt.STORAGE),
    ],
    name: Annotated[str | None, opt.value("TEXT", "The paper's title.", ENTRY)] = None,
    authors: Annotated[
        str | None, opt.value("TEXT", "The paper's authors: A B, C D.", ENTRY)
    ] = None,
    link: Annotated[str | None, opt.value("TEXT", "The paper's URL.", ENTRY)] = None,
    venue: Annotated[str | None, opt.value("TEXT", "The venue, such as ICML 2023.", ENTRY)] = None,
    architecture: Annotated[
        str | None, opt.value("TEXT", "Name, such as WideResNet-34-10.", ENTRY)
    ] = None,
    reported: Annotated[
        str | None, opt.value("TEXT", "The paper's robust accuracy.", ENTRY)
    ] = None,
    footnote: Annotated[str | None, opt.value("TEXT", "A remark on the entry.", ENTRY)] = None,
    additional_data: Annotated[
        bool | None,
        opt.value("", "Whether training used additional real images.", ENTRY),
    ] = None,
    results: opt.StoredResults = opt.RESULTS,
    as_json: opt.Json = False,
) -> None:
    """Export a run as a RobustBench entry; the run and its method fill in what is not given."""
    from leaderboards import robustbench

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
