"""The entry point that Streamlit runs for every visit and every click."""

from __future__ import annotations

import streamlit as st

from app.components import data_line, sentences

st.set_page_config(page_title="DivergenceBench", layout="wide")

PAGES = [
    # Streamlit puts the default page at the root and nowhere else, so that the address which a
    # reader would type needs a page of its own.
    st.Page("views/leaderboards.py", title="Leaderboards", url_path="start", default=True),
    st.Page(
        "views/leaderboards.py",
        title="Leaderboards",
        url_path="leaderboards",
        visibility="hidden",
    ),
    st.Page("views/tradeoffs.py", title="Trade-offs", url_path="tradeoffs"),
    st.Page("views/runs.py", title="Runs", url_path="runs"),
    st.Page("views/run.py", title="Run", url_path="run", visibility="hidden"),
    st.Page("views/compare.py", title="Compare", url_path="compare"),
    st.Page("views/methods.py", title="Methods", url_path="methods"),
    st.Page("views/losses.py", title="Loss explorer", url_path="losses"),
    st.Page("views/tsne.py", title="t-SNE", url_path="tsne"),
]

# Streamlit leaves six lines of nothing above a page.
STYLE = "<style>.stMainBlockContainer {padding-top: 4.5rem; padding-bottom: 2rem}</style>"

page = st.navigation(PAGES, position="top")
st.html(STYLE)
with sentences():
    page.run()
data_line()
