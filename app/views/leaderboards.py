"""Leaderboards: the paper's tables with our numbers beside, and all runs here by protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from app import queries
from app.components import (
    ask,
    ask_folder,
    has_database,
    heading,
    nothing_yet,
    one_named,
    one_of,
    plain,
    records,
    search,
    some_of,
)
from app.frames import downloads, frame
from app.labels import BADGE_LEGEND, protocol_text, stage_title
from app.tabular import (
    PRINTED_ORDER,
    UNDERLINED,
    Filters,
    Shown,
    chosen_rows,
    evidence,
    known_facts,
    latex,
    markdown,
    numbers_csv,
    run_ids,
    shown,
)
from harness.registry import METHODS
from leaderboards.build import table as paper_table
from leaderboards.build import tables
from leaderboards.render.data import to_csv
from leaderboards.render.latex import to_latex
from leaderboards.render.markdown import to_markdown
from leaderboards.render.text import sections
from leaderboards.summary import RunSummary, run_summary
from leaderboards.table import REPRODUCED, SMALL, Cell, Row, Table

RUNS = "runs"
VIEWS = ("both", "printed", "ours")
FACTS = {
    "aug": ("augmentation", "Augmentation", "Training data beyond the set itself, as printed."),
    "arch": ("arch", "Architecture", "The network, as printed."),
    "src": ("source", "Source", "Where numbers are from."),
    "sel": ("selection", "Selection", "Whose weights are measured: last, best on val, on test."),
    "scale": ("scale", "Scale", "The paper's size, or small; small is never ranked with it."),
}


def page() -> None:
    """The chosen table, or the runs of one protocol."""
    heading(
        "Leaderboards",
        "The tables of the paper as printed, with what is reproduced here beside them.",
    )
    titles = {str(title.number): title.title for title in tables()}
    chosen = one_of(
        "Table",
        [*titles, RUNS],
        key="table",
        default="2",
        pills=True,
        help="A table of the paper by its number; runs: everything measured here, by protocol.",
    )
    if chosen == RUNS:
        _runs_here()
    else:
        _paper_table(ask_folder(paper_table, int(chosen)))


def _paper_table(table: Table) -> None:
    st.subheader(f"Table {table.number}: {plain(table.title)}", anchor=False)
    st.caption(f"{plain(table.caption)} {plain(table.protocol)}")
    if table.message:
        st.caption(f"Printed numbers alone: {plain(table.message)}.")
    filters, sort = _filters(table)
    view = _view(table)
    rows = chosen_rows(table, filters, sort)
    if not rows:
        st.info("No row fits these filters.")
        return
    cells = shown(table, rows, printed=view != "ours", ours=view != "printed")
    picked = _sections(table, rows, cells)
    st.caption(_told(table, rows))
    downloads(f"table-{table.number}", table_files(table, rows, view))
    for place in picked:
        _row(table, rows[place])
    for remark in table.remarks:
        st.markdown(f"- {plain(remark)}")
    if table.selection:
        st.caption(f"Selection rule: {plain(table.selection)}")
    if not table.has_ours:
        _first_run(table)


def _filters(table: Table) -> tuple[Filters, str]:
    active = any(key in st.query_params for key in (*FACTS, "search", "sort"))
    with st.expander("Search, filter and sort", expanded=active):
        columns = st.columns(4)
        with columns[0]:
            words = search(
                "Search", key="search", help="In method, network, training data and section."
            )
        facts = {}
        for place, (key, (name, label, help)) in enumerate(FACTS.items(), 1):
            with columns[place % 4]:
                facts[name] = some_of(label, known_facts(table, name), key=key, help=help)
        with columns[(len(FACTS) + 1) % 4]:
            orders = [PRINTED_ORDER, *dict.fromkeys(column.title for column in table.columns)]
            sort = one_of("Sort by", orders, key="sort", help="Best first, sections kept apart.")
    return Filters(words, facts), sort


def _view(table: Table) -> str:
    if not table.has_ours:
        return "printed"
    return one_of(
        "Numbers",
        VIEWS,
        key="show",
        pills=True,
        help="Printed numbers, ours, or both side by side.",
    )


def _sections(table: Table, rows: list[Row], cells: Shown) -> list[int]:
    """A frame a section, under its name where the table has several; the rows picked in any."""
    several = len({row.group for row in table.rows}) > 1
    picked = []
    start = 0
    for name, own in sections(rows):
        title = f"{name} {table.panels.get(name, '')}".strip() if several else ""
        if title:
            st.markdown(f"**{plain(title)}**")
        places = range(start, start + len(own))
        words = f"Table {table.number}{title and f', {title},'} with {len(own)} rows"
        identity = (table.number, [(row.group, row.labels, _values(row)) for row in own])
        picked += frame(cells, places, identity=identity, words=words)
        start += len(own)
    return picked


def _values(row: Row) -> list[float]:
    """What tells rows of one name apart."""
    return [number.value for cell in row.cells.values() for number in cell.numbers]


def _told(table: Table, rows: list[Row]) -> str:
    numbers = table.numbers
    ours = sum(number.badge in (REPRODUCED, SMALL) for number in numbers)
    disputed = sum(bool(number.disputed) for number in numbers)
    told = f"{len(rows)} of {len(table.rows)} rows; {ours} numbers measured here. "
    told += "Bold: as printed; of ours, the best of its column in its section. "
    if any(number.underlined for number in numbers):
        told += f"{UNDERLINED}: underlined in print. "
    if disputed:
        told += f"{disputed} wear !, where the paper contradicts itself. "
    return f"{told}Choose a row for its evidence, command and runs. {BADGE_LEGEND}"


def _row(table: Table, row: Row) -> None:
    """What stands behind one row."""
    with st.container(border=True):
        st.markdown(f"**{plain(' · '.join(text for text in row.labels if text))}**")
        told = evidence(table, row)
        for sentence in told:
            st.markdown(f"- {plain(sentence)}")
        if not told:
            st.caption("Printed as shown; nothing contradicts it.")
        if row.command:
            st.caption("This command makes our number of this row:")
            st.code(row.command, language="bash", wrap_lines=True)
        for run_id in run_ids(row)[:12]:
            st.page_link("views/run.py", label=plain(run_id), query_params={"run": run_id})


def table_files(table: Table, rows: Sequence[Row], view: str) -> dict[str, str]:
    """The rows and numbers shown, in each format; LaTeX is set as the paper sets it."""
    shown_rows = tuple(replace(row, cells=_side(row.cells, view)) for row in rows)
    selected = replace(table, rows=shown_rows)
    return {
        "CSV": to_csv(selected),
        "LaTeX": to_latex(replace(table, rows=tuple(rows)), ours=view != "printed"),
        "Markdown": to_markdown(selected),
        "BibTeX": _bibtex([row.facts.get("method", "") for row in rows]),
    }


def _side(cells: Mapping[str, Cell], view: str) -> dict[str, Cell]:
    if view == "both":
        return dict(cells)
    if view == "ours":
        return {key: Cell(ours=cell.ours) for key, cell in cells.items()}
    return {key: replace(cell, ours=None) for key, cell in cells.items()}


def _bibtex(methods: list[str]) -> str:
    cards = [METHODS.get(name).card for name in dict.fromkeys(methods) if name in METHODS]
    return "\n\n".join(dict.fromkeys(card.bibtex for card in cards if card.bibtex))


def _first_run(table: Table) -> None:
    st.info("Nothing of this table is measured here yet. This command makes the first number:")
    st.code(table.first_run, language="bash", wrap_lines=True)


def _runs_here() -> None:
    st.subheader("All runs here", anchor=False)
    if not has_database():
        nothing_yet()
        return
    protocols = ask(queries.protocols)
    if protocols.empty:
        nothing_yet("No evaluation is finished yet.")
        return
    names = _protocol_names(protocols)
    help = "Only like is ranked with like."
    chosen = one_named("Protocol", names, key="protocol", default=names[0], help=help)
    row = protocols.iloc[names.index(chosen)]
    summary: RunSummary = ask_folder(_summary, row["run_id"], row["evaluation_id"])
    words = search("Search", key="search", help="In method and network.")
    _summary_table(summary, words)


def _summary(run_id: str, evaluation_id: str, results: Any) -> RunSummary:
    return run_summary(results, run_id, evaluation_id)


def _protocol_names(protocols: pd.DataFrame) -> list[str]:
    """A name for each protocol, told apart by the images' hash where words do not suffice."""
    names = []
    for row in records(protocols):
        small = ["small scale"] * (row["scale"] == "small")
        names.append(", ".join([f"{row['dataset']}: {protocol_text(row)}", *small]))
    twice = {name for name in names if names.count(name) > 1}
    hashes = protocols["data_sha256"].fillna("") + protocols["index_sha256"].fillna("")
    return [
        f"{name} ({number}: {text[:6] or 'no hash'})" if name in twice else name
        for number, (name, text) in enumerate(zip(names, hashes, strict=True), 1)
    ]


def _summary_table(summary: RunSummary, words: str) -> None:
    entries = [
        entry for entry in summary.entries if words in f"{entry.method} {entry.arch}".lower()
    ]
    if not entries:
        st.info("No row fits the search.")
        return
    rows = summary.table.iloc[[summary.entries.index(entry) for entry in entries]]
    cells = rows.reset_index(drop=True)
    method, *rest = [name for name in cells.columns if name != "#"]
    cells = cells[[method, "#", *rest]]
    help = {
        str(name): _SUMMARY_HELP.get(str(name), f"Accuracy after {name}, in percent.")
        for name in cells
    }
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    bold.loc[[entry.rank == "1" for entry in entries]] = True
    identity = (summary.title, [entry.run_ids or entry.source for entry in entries])
    picked = frame(
        Shown(cells, bold, help),
        range(len(entries)),
        identity=identity,
        words=f"{len(entries)} rows of one protocol",
    )
    st.caption(
        f"{plain(summary.title)}. Ranked by {plain(stage_title(summary.metric))}; 1=: 95% "
        f"interval overlaps the leader's; partial: on a part of the data, never ranked. "
        f"{BADGE_LEGEND}"
    )
    files = {
        "CSV": numbers_csv(entries),
        "LaTeX": latex(cells, summary.title),
        "Markdown": markdown(cells),
    }
    downloads("runs", files)
    for place in picked:
        entry = entries[place]
        with st.container(border=True):
            st.markdown(f"**{plain(entry.method)}** · {plain(entry.arch)}")
            for flag in entry.flags:
                st.markdown(f"- ? {plain(flag)}")
            for run_id in entry.run_ids[:12]:
                st.page_link("views/run.py", label=plain(run_id), query_params={"run": run_id})


_SUMMARY_HELP = {
    "Method": "The method's name; its recipe where that tells rows apart.",
    "#": "Rank by what the caption names; 1=: its 95% interval overlaps the leader's.",
    "Architecture": "The network, with its teacher if it has one.",
    "Seeds": "Runs that differ in nothing but the seed, averaged.",
    "n": "Test images.",
    "s/iter": "Median seconds of an optimiser step.",
    "Src": "Where the numbers are from.",
    "Clean": "Accuracy on unattacked test images, in percent.",
}


page()
