"""The static site's rendered tables inside the app, with rows that open in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlencode

import streamlit as st
from streamlit.components.v2 import component

from leaderboards.render.html import TableView, css, fragment
from leaderboards.table import Row, Table

HOST = """
:host { --ink: var(--st-text-color); --ground: var(--st-background-color);
  --line: var(--st-border-color); --band: var(--st-secondary-background-color);
  --ours: var(--st-primary-color);
  --dim: color-mix(in srgb, var(--st-text-color) 66%, var(--st-background-color));
  --alert: color-mix(in srgb, #c24e00 80%, var(--st-text-color));
  --above: color-mix(in srgb, #008a63 80%, var(--st-text-color));
  --tint: color-mix(in srgb, #e69f00 11%, var(--st-background-color));
  color: var(--ink); font-family: var(--st-font); font-size: 1rem; line-height: 1.45; }
a { color: var(--ours); }
tr.row { cursor: pointer; }
"""
# A click on a row is sent to the page; a click with a modifier key opens its link as usual.
SCRIPT = """
export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".root");
  if (root.dataset.shown !== data.html) {
    root.innerHTML = data.html;
    root.dataset.shown = data.html;
  }
  root.onclick = (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const link = event.target.closest("a");
    const row = event.target.closest("tr.row");
    if (!row || (link && !link.dataset.row && !link.classList.contains("mark"))) return;
    event.preventDefault();
    if (!link && String(document.getSelection())) return;
    setTriggerValue("row", row.querySelector("a[data-row]").dataset.row);
  };
}
"""


def show_rendered(table: Table, rows: Sequence[Row], *, parameter: str = "row") -> None:
    """Show some rows of a table; the URL names the row whose evidence is open.

    Args:
        table: the table.
        rows: the rows to show.
        parameter: the URL parameter that names the open row.
    """
    known = {row.key for row in rows}
    opened = st.query_params.get(parameter, "")
    view = TableView(
        table,
        rows,
        opened=opened if opened in known else "",
        row_link=lambda key: _address(parameter, key),
        run_link="run?run=",
    )
    key = f"{table.anchor}-{parameter}"
    mount = component(
        "divergence_bench.table", html='<div class="root"></div>', css=HOST + css(), js=SCRIPT
    )
    mount(data={"html": fragment(view)}, key=key, on_row_change=_toggle(key, parameter))


def _toggle(key: str, parameter: str) -> Callable[[], None]:
    """Return a callback that opens the clicked row, or closes it if it is open."""

    def change() -> None:
        clicked = st.session_state[key].row
        if st.query_params.get(parameter) == clicked:
            del st.query_params[parameter]
        else:
            st.query_params[parameter] = clicked

    return change


def _address(parameter: str, key: str) -> str:
    """This page's URL with another open row, or none."""
    given = {name: st.query_params.get_all(name) for name in st.query_params}
    given[parameter] = [key] if key else []
    return f"?{urlencode(given, doseq=True)}"
