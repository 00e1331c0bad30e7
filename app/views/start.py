"""The start page: the question, the best numbers printed and measured, links to tables, a chart."""

from __future__ import annotations

import streamlit as st

from app import components as ui
from app.field_chart import field_chart
from leaderboards.build import field
from leaderboards.build import table as paper_table
from leaderboards.headline import best_text

LEADERBOARDS = "views/leaderboards.py"
# Best numbers shown: table of the paper, dataset, and what the number is.
BEST = (
    (2, "CIFAR-100", "clean / AutoAttack, %"),
    (4, "CIFAR-10", "clean / AutoAttack, %"),
    (3, "ImageNet", "top-1 of a distilled student, %"),
)
DOORS = (
    (
        "Adversarial training",
        "Does the loss make a classifier robust to AutoAttack?",
        {"2": "Table 2: CIFAR-100", "4": "Table 4: CIFAR-10"},
    ),
    (
        "Distillation",
        "Does a student learn more from the same teacher?",
        {"3": "Table 3: ImageNet", "5": "Table 5: CIFAR-100", "7": "Table 7: other families"},
    ),
    (
        "Ablations",
        "Which part of the loss helps, and at which weight?",
        {"1": "Table 1: from KL to IKL", "6": "Table 6: weights", "small": "Our small-scale runs"},
    ),
)


def page() -> None:
    """Show the question, three numbers, links to the tables, and a chart of the field."""
    st.title("Does a better KL divergence make better models?", anchor=False)
    st.caption(
        "The paper [Decoupled Kullback-Leibler Divergence Loss](https://arxiv.org/abs/2305.13948) "
        "breaks the asymmetry of the KL loss and adds class-wise information, which gives the "
        "IKL loss. Here are the paper's numbers and ours."
    )
    for column, (number, dataset, what) in zip(st.columns(3), BEST, strict=True):
        with column:
            _best(number, dataset, what)
    for column, (title, question, links) in zip(st.columns(3), DOORS, strict=True):
        with column, st.container(border=True):
            st.markdown(f"**{title}**  \n{question}")
            for name, label in links.items():
                st.page_link(LEADERBOARDS, label=label, query_params={"table": name})
    _field()
    if not ui.has_database():
        ui.nothing_yet()


def _best(number: int, dataset: str, what: str) -> None:
    """Show the best printed number of a dataset, and ours."""
    printed, row, ours = best_text(ui.query_folder(paper_table, number))
    with st.container(border=True, gap=None):
        st.markdown(f"**{dataset}** · {what}")
        st.markdown(f"### {printed}")
        st.caption(f"Printed (P): {ui.plain(row)}  \n{ui.plain(ours)}")


def _field() -> None:
    """Plot the paper's models among RobustBench's entries."""
    shown = ui.query_folder(field, 2)
    st.subheader(
        "CIFAR-100 under attack: the paper's models among RobustBench's entries", anchor=False
    )
    chart, count = field_chart(shown)
    alt = f"Scatter of {count} models: lowest known accuracy under attack against clean accuracy"
    ui.show_chart(chart, alt=alt)
    st.caption(
        f"{count} models attacked at Linf 8/255: RobustBench's entries, the paper's rows and ours. "
        "Up and to the right is better."
    )


page()
