"""Leaderboards: the paper's tables with our numbers beside, and all runs here by protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from app import components as ui
from app import queries
from app.cells import (
    PRINTED_ORDER,
    UNDERLINED,
    Cells,
    Filters,
    ShownNumber,
    chosen_rows,
    evidence,
    known_facts,
    run_ids,
    show_cells,
    table_cells,
    table_files,
)
from app.labels import BADGE_LEGEND, protocol_text, stage_title
from leaderboards.build import table as paper_table
from leaderboards.build import tables
from leaderboards.ranking import Entry
from leaderboards.render.latex import escape
from leaderboards.render.summary import metric_title as title_of
from leaderboards.render.text import sections
from leaderboards.summary import RunSummary, run_summary
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
    if not rows:
        st.info("No row fits these filters.")
        return
    selected = _sections(table, rows, view)
    st.caption(_caption(table, rows))
    downloads(f"table-{table.number}", table_files(table, rows, view))
    for place in selected:
        _row(table, rows[place])
    for remark in table.remarks:
        st.markdown(f"- {ui.plain(remark)}")
    if table.selection:
        st.caption(f"Selection rule: {ui.plain(table.selection)}")
    if not table.has_ours:
        st.info("Nothing in this table is measured here yet. This command makes a first number:")
        st.code(table.first_run, language="bash", wrap_lines=True)


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


def _sections(table: Table, rows: Sequence[Row], view: str) -> list[int]:
    """A table for each section, under its name if there are several; the rows selected in any."""
    cells = table_cells(table, rows, printed=view != "ours", ours=view != "printed")
    several = len({row.group for row in table.rows}) > 1
    selected: list[int] = []
    start = 0
    for name, own in sections(rows):
        title = f"{name} {table.panels.get(name, '')}".strip() if several else ""
        if title:
            st.markdown(f"**{ui.plain(title)}**")
        selected += show_cells(
            cells,
            range(start, start + len(own)),
            identity=(table.number, [(row.group, row.labels, _values(row)) for row in own]),
            alt=f"Table {table.number}{title and f', {title},'} with {len(own)} rows",
        )
        start += len(own)
    return selected


def _values(row: Row) -> list[float]:
    """The values that distinguish rows with the same labels."""
    return [number.value for cell in row.cells.values() for number in cell.numbers]


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
        ui.run_links(run_ids(row))


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


def _runs_here() -> None:
    st.subheader("All runs here", anchor=False)
    if not ui.has_database():
        ui.nothing_yet()
        return
    protocols = ui.query(queries.protocols)
    if protocols.empty:
        ui.nothing_yet("No evaluation is finished yet.")
        return
    names = _protocol_names(protocols)
    help = "Only runs of the same protocol, dataset and scale are ranked together."
    chosen = ui.one_named("Protocol", names, key="protocol", default=names[0], help=help)
    row = protocols.iloc[names.index(chosen)]
    summary: RunSummary = ui.query_folder(_summary, row["run_id"], row["evaluation_id"])
    words = ui.search("Search", key="search", help="In methods and architectures.")
    _summary_table(summary, words)


def _summary(run_id: str, evaluation_id: str, results: Path) -> RunSummary:
    return run_summary(results, run_id, evaluation_id)


def _protocol_names(protocols: pd.DataFrame) -> list[str]:
    """A name for each protocol, with the images' hash where the words alone are the same."""
    names = []
    for row in ui.records(protocols):
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
    table = summary.table.iloc[[summary.entries.index(entry) for entry in entries]]
    metrics = {title_of(name): name for name in (*summary.stages, summary.metric)}
    cells = Cells()
    for name in ["Method", *(column for column in table if column != "Method")]:
        texts = table[name].tolist()
        values: list[object] = list(texts)
        metric = metrics.get(name.removesuffix(" [95%]"), {"s/iter": "sec_per_iter"}.get(name))
        if metric:
            scores = [entry.scores.get(metric) for entry in entries]
            values = [s and ShownNumber(s.value, t) for s, t in zip(scores, texts, strict=True)]
        elif name in ("Seeds", "n"):
            counts = [entry.seeds if name == "Seeds" else entry.n for entry in entries]
            values = [n and ShownNumber(n, t) for n, t in zip(counts, texts, strict=True)]
        help = _SUMMARY_HELP.get(name, f"Accuracy after {name}, in percent.")
        cells.add(name, values, help, [entry.rank == "1" for entry in entries])
    selected = show_cells(
        cells,
        range(len(entries)),
        identity=(summary.title, [entry.run_ids or entry.source for entry in entries]),
        alt=f"{len(entries)} rows of one protocol",
    )
    st.caption(
        f"{ui.plain(summary.title)}. Ranked by {ui.plain(stage_title(summary.metric))}; 1=: the 95% "
        f"interval overlaps the leader's; partial: on part of the data, never ranked. "
        f"{BADGE_LEGEND}"
    )
    frame = pd.DataFrame({title: cells.texts(title) for title in cells.values})
    files = {
        "CSV": numbers_csv(entries),
        "LaTeX": latex(frame, summary.title),
        "Markdown": markdown(frame),
    }
    downloads("runs", files)
    for place in selected:
        entry = entries[place]
        with st.container(border=True):
            st.markdown(f"**{ui.plain(entry.method)}** · {ui.plain(entry.arch)}")
            for flag in entry.flags:
                st.markdown(f"- ? {ui.plain(flag)}")
            ui.run_links(entry.run_ids)


_SUMMARY_HELP = {
    "Method": "The method's name, with its recipe where that distinguishes rows.",
    "#": "Rank by the accuracy that the caption names; 1=: 95% interval overlaps the leader's.",
    "Architecture": "The architecture, with its teacher if it has one.",
    "Seeds": "Runs that differ only in the seed, averaged.",
    "n": "Test images.",
    "s/iter": "Median seconds of an optimiser step.",
    "Src": "Where the numbers are from.",
    "Clean": "Accuracy on clean test images, in percent.",
}


def numbers_csv(entries: Sequence[Entry]) -> str:
    """One number of a protocol's runs a line; accuracies as fractions, times in seconds."""
    lines = [
        {
            "rank": entry.rank,
            "method": entry.method,
            "arch": entry.arch,
            "badge": entry.badge,
            "seeds": entry.seeds,
            "n": entry.n,
            "partial": int(entry.partial),
            "metric": metric,
            "value": score.value,
            "low": score.low,
            "high": score.high,
            "std": score.std,
            "flags": " ".join(entry.flags),
            "run_ids": " ".join(entry.run_ids),
            "source": entry.source,
        }
        for entry in entries
        for metric, score in entry.scores.items()
    ]
    return pd.DataFrame(lines).to_csv(index=False)


def markdown(cells: pd.DataFrame) -> str:
    """Cells as a Markdown table."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    columns = [str(column) for column in cells.columns]
    body = [line([str(text) for text in row]) for row in cells.itertuples(index=False)]
    return "\n".join([line(columns), line(["---"] * len(columns)), *body]) + "\n"


def latex(cells: pd.DataFrame, caption: str) -> str:
    """Cells as a booktabs table."""
    return str(
        cells.map(lambda text: escape(str(text)))
        .rename(columns=escape)
        .style.hide(axis="index")
        .to_latex(hrules=True, caption=escape(caption), position_float="centering")
    )


page()
