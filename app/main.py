"""The script that Streamlit runs for every visit and every click."""

from __future__ import annotations

import streamlit as st

from app.components import begin, errors_as_messages, footer

st.set_page_config(page_title="DivergenceBench", layout="wide")

PAGES = [
    # Streamlit serves the default page only at the root, so /start is a second, hidden page.
    st.Page("views/start.py", title="Start", url_path="root", default=True),
    st.Page("views/start.py", title="Start", url_path="start", visibility="hidden"),
    st.Page("views/leaderboards.py", title="Leaderboards", url_path="leaderboards"),
    st.Page("views/tradeoffs.py", title="Trade-offs", url_path="tradeoffs"),
    st.Page("views/runs.py", title="Runs", url_path="runs"),
    st.Page("views/run.py", title="Run", url_path="run", visibility="hidden"),
    st.Page("views/compare.py", title="Compare", url_path="compare"),
    st.Page("views/methods.py", title="Methods", url_path="methods"),
    st.Page("views/losses.py", title="Loss explorer", url_path="losses"),
    st.Page("views/tsne.py", title="t-SNE", url_path="tsne"),
]

# Streamlit leaves about six empty lines above a page.
STYLE = "<style>.stMainBlockContainer {padding-top: 4.5rem; padding-bottom: 2rem}</style>"

begin()
page = st.navigation(PAGES, position="top")
st.html(STYLE)
with errors_as_messages():
    page.run()
footer()
