"""Leaderboards: the paper's tables with our numbers, and all runs here by protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import streamlit as st

from app import components as ui
from app import queries
from app.cells import (
    LISTED_ORDER,
    PRINTED_ORDER,
    VIEWS,
    Filters,
    chosen_rows,
    file_name,
    known_facts,
    show_cells,
    sides,
    table_cells,
    table_files,
)
from app.labels import protocol_names, stage_title
from app.rendered import show_rendered
from harness.store.text import counted
from leaderboards.build import FIELDS, SMALL_NAME, field, small, tables
from leaderboards.build import table as paper_table
from leaderboards.differences import AGAINST, OTHERS, REFERENCE
from leaderboards.render.text import (
    badge_meanings,
    disputes,
    flag_texts,
    legend,
    notes,
    titled_sections,
    verdict_meanings,
)
from leaderboards.summary import run_summary
from leaderboards.table import DISPUTED, FLAGGED, Row, Table

RUNS = "runs"
NAMES = {
    **{str(header.number): header.name for header in tables()},
    SMALL_NAME: "Small scale: differences and runs measured here",
    RUNS: "All runs here, by protocol",
}
FACTS = {
    "aug": ("augmentation", "Training data", "Data beyond the training set, as printed."),
    "arch": ("arch", "Architecture", "The model's architecture, as printed."),
    "src": ("source", "Source", "Where numbers come from."),
    "sel": ("selection", "Selection", "The epoch evaluated: last, best on val or best on test."),
}
FIELD_FACTS = {
    "arch": ("field_arch", "Architectures of the field"),
    "augmentation": ("field_aug", "Training data of the field"),
}
# URL parameters that belong to one table and are dropped with it.
OF_A_TABLE = (
    *FACTS, "search", "sort", "show", "view", "field_arch", "field_aug", "forest", "protocol",
)  # fmt: skip
# The two forest plots at small scale: option, value in ``Row.facts``, and title.
FORESTS = {
    "all with KL and KD": (REFERENCE, "Small-scale accuracy: each method minus KL or KD"),
    "IKL with the others": (
        OTHERS,
        "Small-scale accuracy: the paper's losses minus every other method",
    ),
}
RENDERED, AS_DATA = "table", "as data"
FILE_ENDINGS = {"CSV": "csv", "LaTeX": "tex", "Markdown": "md", "BibTeX": "bib"}


def page() -> None:
    """Show the selected table, or the runs of one protocol."""
    left, right = st.columns([2, 3], vertical_alignment="center")
    with left:
        st.title("Leaderboards", anchor=False)
    with right:
        chosen = ui.one_named(
            "Table",
            list(NAMES),
            key="table",
            default="2",
            titles=NAMES,
            label_visibility="collapsed",
        )
    _forget_other(chosen)
    if chosen == RUNS:
        _runs_here()
    elif chosen == SMALL_NAME:
        _small_scale()
    else:
        _paper_table(int(chosen))


def _forget_other(chosen: str) -> None:
    """Reset the filters and open rows of the table that was shown before."""
    before = st.session_state.get("shown table", chosen)
    st.session_state["shown table"] = chosen
    if before != chosen:
        for name in OF_A_TABLE:
            st.session_state.pop(name, None)
        st.switch_page("views/leaderboards.py", query_params={"table": chosen})


def _paper_table(number: int) -> None:
    table = ui.query_folder(paper_table, number)
    st.markdown(f"**{ui.plain(table.headline)}**")
    _show(table)
    # Empty also if the database cannot be read, which an error on the page says.
    if table.message:
        st.caption(
            f"Only printed numbers are shown: {ui.plain(table.message)}. This command measures the "
            "first of ours:"
        )
        st.code(table.first_run, language="bash", wrap_lines=True)
    if number in FIELDS.values():
        _field(ui.query_folder(field, number))


def _field(table: Table) -> None:
    """Show RobustBench's entries with the table's rows among them."""
    st.subheader(ui.plain(table.title), anchor="field")
    st.caption(f"{ui.plain(table.caption)} {ui.plain(' '.join(table.remarks))}")
    help = "As named by RobustBench or the paper."
    kept = {}
    for column, (name, (key, label)) in zip(st.columns(2), FIELD_FACTS.items(), strict=True):
        with column:
            kept[name] = ui.some_of(label, known_facts(table, name), key=key, help=help)
    rows = chosen_rows(table, Filters(facts=kept), LISTED_ORDER)
    show_rendered(table, rows, parameter="entry")
    _downloads(table, rows, "both")


def _small_scale() -> None:
    runs, differences = ui.query_folder(small)
    words, spot = st.container(), st.container()
    help = "The reference is training with KL or, for distillation, classical KD."
    chosen = ui.one_of("Compared", list(FORESTS), key="forest", pills=True, help=help)
    against, sentence = FORESTS[chosen]
    rows = [row for row in differences.rows if row.facts[AGAINST] == against]
    with words:
        st.markdown(
            f"**{sentence}, with the same seeds and images.** Right of the line is better. "
            "Hollow marks: the interval contains 0, so no difference is shown."
        )
    with spot:
        if rows:
            show_rendered(differences, rows, parameter="pair")
        else:
            message = differences.message
            ui.nothing_yet(f"{ui.plain(message[:1].upper() + message[1:])}.")
        said = [*legend(differences), *differences.remarks]
        st.caption(" · ".join(map(ui.plain, said)))
    _downloads(differences, rows, "both")
    st.subheader(ui.plain(runs.title), anchor=False)
    _show(runs, runs.caption)


def _runs_here() -> None:
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
    _show(
        table,
        f"{table.title}. Ranked by {stage_title(table.ranked_by)}; a rank is the range that the "
        "95% intervals allow; partial: trained or evaluated on part of the data, never ranked.",
    )


def _ranking(run_id: str, evaluation_id: str, results: Path) -> Table:
    return run_summary(results, run_id, evaluation_id).table


def _show(table: Table, caption: str = "") -> None:
    """Show a table with its legend and notes, and below it the controls for rows and numbers.

    ``caption`` is shown above the table and replaces the table's own caption below it.
    """
    spot = st.container()
    with st.container(horizontal=True, gap="medium"):
        style = ui.one_of("View", (RENDERED, AS_DATA), key="view", pills=True)
        has_both = table.has_ours and any(
            cell.printed for r in table.rows for cell in r.cells.values()
        )
        view = VIEWS[0]
        if has_both:
            help = "Printed numbers, ours, or both."
            view = ui.one_of("Numbers", VIEWS, key="show", pills=True, help=help)
    filters, sort = _filters(table)
    # Rows are sorted by the numbers that are shown.
    rows = chosen_rows(replace(table, rows=tuple(sides(table.rows, view))), filters, sort)
    with spot:
        if caption:
            st.caption(ui.plain(caption))
        if not rows:
            st.info("No row of this table matches the search and filters below.")
        elif style == RENDERED:
            show_rendered(table, rows)
        else:
            _grids(table, rows, view)
        shown = f"{len(rows)} of {len(table.rows)} rows." * (len(rows) < len(table.rows))
        said = [shown, table.caption * (not caption), table.protocol]
        said += [*badge_meanings(table), *verdict_meanings(table)]
        st.caption(" · ".join(ui.plain(text) for text in said if text))
    _downloads(table, rows, view)
    _notes(table)


def _grids(table: Table, rows: Sequence[Row], view: str) -> None:
    """Show the rows as data grids, one per section, each with its own sorting and search."""
    cells = table_cells(table, rows, view)
    start = 0
    for title, own in titled_sections(table, rows):
        if title:
            st.markdown(f"**{ui.plain(title)}**")
        alt = f"{table.title}{title and f', {title},'} with {counted(len(own), 'row')}"
        show_cells(cells, range(start, start + len(own)), alt=alt)
        start += len(own)


def _notes(table: Table) -> None:
    """Show where the paper contradicts itself, reasons to doubt numbers, and notes."""
    found = [f"{DISPUTED} {where}: {evidence}" for where, evidence in disputes(table)]
    found += [f"{FLAGGED} {line}" for line in flag_texts(table)]
    found += [line for line in legend(table) if line not in badge_meanings(table)]
    found += notes(table)
    if found:
        with st.expander(f"Notes and evidence ({len(found)})"):
            st.markdown("\n".join(f"- {ui.plain(line)}" for line in found))


def _filters(table: Table) -> tuple[Filters, str]:
    active = any(key in st.query_params for key in (*FACTS, "search", "sort"))
    with st.expander("Search, filter and sort", expanded=active):
        columns = st.columns(3)
        with columns[0]:
            help = "Searches methods, architectures, training data and section names."
            words = ui.search("Search", key="search", help=help)
        facts = {}
        for place, (key, (name, label, help)) in enumerate(FACTS.items(), 1):
            known = known_facts(table, name)
            if len(known) > 1:
                with columns[place % 3]:
                    facts[name] = ui.some_of(label, known, key=key, help=help)
        with columns[(len(FACTS) + 1) % 3]:
            own_order = PRINTED_ORDER if table.number else LISTED_ORDER
            orders = [own_order, *dict.fromkeys(column.title for column in table.columns)]
            sort = ui.one_of("Sort by", orders, key="sort", help="Best first, within each section.")
    return Filters(words, facts), sort


def _downloads(table: Table, rows: Sequence[Row], view: str) -> None:
    """Show a download button for each format; the file is made on a click."""
    with st.container(horizontal=True, gap="small"):
        for label, text_of in table_files(table, rows, view).items():
            ending = FILE_ENDINGS[label]
            st.download_button(
                label,
                text_of,
                f"{file_name(table)}.{ending}",
                "text/csv" if ending == "csv" else "text/plain",
                key=f"download-{table.anchor}-{ending}",
                on_click="ignore",
                disabled=not rows,
                help=f"Download the rows shown as {label}.",
            )


page()
