"""Leaderboards: the paper's tables with our numbers beside, and all runs here by protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from app import components as ui
from app import queries
from app.cells import (
    PRINTED_ORDER,
    UNDERLINED,
    Filters,
    chosen_rows,
    evidence,
    known_facts,
    show_cells,
    table_cells,
    table_files,
)
from app.labels import BADGE_LEGEND, protocol_names, stage_title
from leaderboards.build import table as paper_table
from leaderboards.build import tables
from leaderboards.render.text import titled_sections
from leaderboards.summary import run_summary
from leaderboards.table import REPRODUCED, SMALL, Row, Table

RUNS = "runs"
VIEWS = ("both", "printed", "ours")
FACTS = {
    "aug": ("augmentation", "Augmentation", "Data beyond the training set, as printed."),
    "arch": ("arch", "Architecture", "The model's architecture, as printed."),
    "src": ("source", "Source", "Where numbers are from."),
    "sel": ("selection", "Selection", "The epoch evaluated: last, best on val or best on test."),
    "scale": ("scale", "Scale", "The paper's scale, or small, which is never ranked with it."),
}
FILE_ENDINGS = {"CSV": "csv", "LaTeX": "tex", "Markdown": "md", "BibTeX": "bib"}


def page() -> None:
    """The chosen table, or the runs of one protocol."""
    ui.heading(
        "Leaderboards",
        "The paper's tables as printed, with the numbers reproduced here beside them.",
    )
    numbers = [str(title.number) for title in tables()]
    chosen = ui.one_of(
        "Table",
        [*numbers, RUNS],
        key="table",
        default="2",
        pills=True,
        help="A table of the paper by its number; runs: everything measured here, by protocol.",
    )
    if chosen == RUNS:
        _runs_here()
    else:
        _paper_table(ui.query_folder(paper_table, int(chosen)))


def _paper_table(table: Table) -> None:
    st.subheader(f"Table {table.number}: {ui.plain(table.title)}", anchor=False)
    st.caption(f"{ui.plain(table.caption)} {ui.plain(table.protocol)}")
    if table.message:
        st.caption(f"Only printed numbers are shown: {ui.plain(table.message)}.")
    filters, sort = _filters(table)
    view = _view(table)
    rows = chosen_rows(table, filters, sort)
    _show(table, rows, view, _caption(table, rows), f"table-{table.number}")
    for remark in table.remarks:
        st.markdown(f"- {ui.plain(remark)}")
    if table.selection:
        st.caption(f"Selection rule: {ui.plain(table.selection)}")
    if not table.has_ours:
        st.info("Nothing in this table is measured here yet. This command makes a first number:")
        st.code(table.first_run, language="bash", wrap_lines=True)


def _runs_here() -> None:
    st.subheader("All runs here", anchor=False)
    if not ui.has_database():
        ui.nothing_yet()
        return
    protocols = ui.query(queries.protocols)
    if protocols.empty:
        ui.nothing_yet("No evaluation is finished yet.")
        return
    pairs = zip(protocols["dataset"], protocol_names(protocols), strict=True)
    names = [f"{dataset}: {name}" for dataset, name in pairs]
    help = "Only runs of the same dataset, protocol and scale are ranked together."
    chosen = ui.one_named("Protocol", names, key="protocol", default=names[0], help=help)
    row = protocols.iloc[names.index(chosen)]
    table = ui.query_folder(_ranking, row["run_id"], row["evaluation_id"])
    words = ui.search("Search", key="search", help="In methods and architectures.")
    caption = (
        f"{ui.plain(table.title)}. Ranked by {ui.plain(stage_title(table.ranked_by))}; 1=: the 95% "
        "interval overlaps the leader's; partial: on part of the data, never ranked. "
        f"{BADGE_LEGEND}"
    )
    _show(table, chosen_rows(table, Filters(words), PRINTED_ORDER), "both", caption, RUNS)


def _ranking(run_id: str, evaluation_id: str, results: Path) -> Table:
    return run_summary(results, run_id, evaluation_id).table


def _show(table: Table, rows: Sequence[Row], view: str, caption: str, name: str) -> None:
    """Some rows by section, their files, and the evidence of the rows that are selected."""
    if not rows:
        st.info("No row fits these filters.")
        return
    cells = table_cells(table, rows, view)
    selected: list[int] = []
    start = 0
    for title, own in titled_sections(table, rows):
        if title:
            st.markdown(f"**{ui.plain(title)}**")
        selected += show_cells(
            cells,
            range(start, start + len(own)),
            identity=(table.title, own),
            alt=f"{table.title}{title and f', {title},'} with {len(own)} rows",
        )
        start += len(own)
    st.caption(caption)
    downloads(name, table_files(table, rows, view))
    for place in selected:
        _row(table, rows[place])


def _filters(table: Table) -> tuple[Filters, str]:
    active = any(key in st.query_params for key in (*FACTS, "search", "sort"))
    with st.expander("Search, filter and sort", expanded=active):
        columns = st.columns(4)
        with columns[0]:
            help = "In methods, architectures, training data and section names."
            words = ui.search("Search", key="search", help=help)
        facts = {}
        for place, (key, (name, label, help)) in enumerate(FACTS.items(), 1):
            with columns[place % 4]:
                facts[name] = ui.some_of(label, known_facts(table, name), key=key, help=help)
        with columns[(len(FACTS) + 1) % 4]:
            orders = [PRINTED_ORDER, *dict.fromkeys(column.title for column in table.columns)]
            sort = ui.one_of("Sort by", orders, key="sort", help="Best first, within each section.")
    return Filters(words, facts), sort


def _view(table: Table) -> str:
    if not table.has_ours:
        return "printed"
    help = "Printed numbers, ours, or both side by side."
    return ui.one_of("Numbers", VIEWS, key="show", pills=True, help=help)


def _caption(table: Table, rows: Sequence[Row]) -> str:
    numbers = table.numbers
    ours = sum(number.badge in (REPRODUCED, SMALL) for number in numbers)
    disputed = sum(bool(number.disputed) for number in numbers)
    caption = f"{len(rows)} of {len(table.rows)} rows; {ours} numbers measured here. "
    caption += "Bold: as printed, or the best of our numbers in its column and section. "
    if any(number.underlined for number in numbers):
        caption += f"{UNDERLINED}: underlined in the paper. "
    if disputed:
        plural = "s" * (disputed > 1)
        caption += f"{disputed} number{plural} marked !, where the paper contradicts itself. "
    return f"{caption}Select a row for its evidence, command and runs. {BADGE_LEGEND}"


def _row(table: Table, row: Row) -> None:
    """The evidence, command and runs of one row."""
    with st.container(border=True):
        st.markdown(f"**{ui.plain(' · '.join(text for text in row.labels if text))}**")
        sentences = evidence(table, row)
        for sentence in sentences:
            st.markdown(f"- {ui.plain(sentence)}")
        if not sentences:
            st.caption("The numbers are as printed; nothing contradicts them.")
        if row.command:
            st.caption("This command reproduces the row:")
            st.code(row.command, language="bash", wrap_lines=True)
        for run_id in row.run_ids[:12]:
            st.page_link("views/run.py", label=ui.plain(run_id), query_params={"run": run_id})


def downloads(name: str, files: Mapping[str, str]) -> None:
    """A download button for each format."""
    with st.container(horizontal=True, gap="small"):
        for label, text in files.items():
            ending = FILE_ENDINGS[label]
            st.download_button(
                label,
                text,
                f"{name}.{ending}",
                "text/csv" if ending == "csv" else "text/plain",
                key=f"download-{ending}",
                on_click="ignore",
                disabled=not text,
                help=f"The rows shown, as {label}.",
            )


page()
