"""Methods: the formula, summary, parameters and recipes of each."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import components as ui
from harness.method import Method
from harness.registry import METHODS

FAMILIES = ("adversarial", "distillation", "natural")
MAX_RECIPES = 400
# The card that is open when the URL names none: the paper's own method.
DEFAULT_METHOD = "ikl"

METHOD_COLUMNS = {
    "title": ui.text_column("Method", "Name as printed in papers.", pinned=True),
    "name": ui.text_column("Name", "Name for --method."),
    "family": ui.text_column("Training", "The kind of training it is for."),
    "tables": ui.text_column("Tables", "Tables of the paper that contain it."),
    "summary": ui.text_column("Idea", "The idea in one sentence.", width="large"),
    "page": st.column_config.LinkColumn("Card", display_text="open", help="The method's card."),
}
PARAMETER_COLUMNS = {
    "name": ui.text_column("Parameter", "NAME in --set params.NAME=.", pinned=True),
    "value": ui.text_column("Default", "The default value."),
    "released": ui.text_column("In released code", "Its name in the authors' code, if different."),
    "doc": ui.text_column("Meaning", "What it does.", width="large"),
}
RECIPE_COLUMNS = {
    "recipe": ui.text_column("Recipe", "Name for --recipe.", pinned=True),
    "note": ui.text_column(
        "Note", "Where the paper, logs and code contradict each other.", width="large"
    ),
}


def page() -> None:
    """Show a filter, the selected method's card, and the list of all methods."""
    ui.heading(
        "Methods", "Every method that can be trained here: its paper's formula and how to run it."
    )
    cards, broken = METHODS.load_all()
    for reason in broken.values():
        st.warning(ui.plain(reason))
    left, right = st.columns([1, 2])
    with left:
        families = ui.some_of("Training", FAMILIES, key="family")
    names = [name for name, m in cards.items() if not families or m.card.family in families]
    # A card named by the URL stays open whatever the filter.
    named = st.query_params.get("m", "")
    options = [*names, *[named] * (named in cards and named not in names)]
    with right:
        default = DEFAULT_METHOD if DEFAULT_METHOD in names else names[0]
        chosen = ui.one_of(
            "Method", options, key="m", default=default, help="The name for --method."
        )
    _card(chosen, cards[chosen])
    with st.expander(f"All {len(names)} methods", expanded=False):
        _list({name: cards[name] for name in names})


def _list(cards: dict[str, Method]) -> None:
    rows = [
        {
            "title": method.card.title,
            "name": name,
            "family": method.card.family,
            "tables": ", ".join(map(str, method.card.tables)),
            "summary": method.card.summary,
            "page": f"methods?m={name}",
        }
        for name, method in cards.items()
    ]
    ui.show_table(pd.DataFrame(rows), METHOD_COLUMNS, f"Table of {len(rows)} methods")


def _card(name: str, method: Method) -> None:
    card = method.card
    st.header(ui.plain(card.title), anchor=False)
    st.markdown(ui.plain(card.summary))
    st.latex(card.formula)
    with st.container(horizontal=True, gap="small"):
        st.badge(card.family, color="blue")
        if card.needs_teacher:
            st.badge("needs a teacher", color="gray")
        for number in card.tables:
            st.badge(f"Table {number}", color="gray")
    st.markdown(
        f"{ui.plain(card.paper)}" + (f" [{ui.plain(card.url)}]({card.url})" if card.url else "")
    )
    st.code(ui.with_results(f"python -m harness run --method {name}"), language=None)
    _parameters(method)
    for note in card.notes:
        st.markdown(f"- {ui.plain(note)}")
    _recipes(method)
    if card.bibtex:
        with st.expander("BibTeX"):
            st.code(card.bibtex, language=None)


def _parameters(method: Method) -> None:
    params = method.params()
    values = params.model_dump(mode="json")
    if not values:
        st.caption("This method has no parameters.")
        return
    fields = type(params).model_fields
    frame = pd.DataFrame(
        [
            {
                "name": name,
                "value": str(value),
                "released": method.card.released_names.get(name, ""),
                "doc": fields[name].description or "",
            }
            for name, value in values.items()
        ]
    )
    columns = {
        name: column
        for name, column in PARAMETER_COLUMNS.items()
        if name in ("name", "value") or frame[name].any()
    }
    ui.show_table(frame, columns, f"Parameters of the method: {', '.join(values)}")


def _recipes(method: Method) -> None:
    with st.expander(f"Recipes ({len(method.recipes)})"):
        names = sorted(method.recipes)
        notes = [method.recipe_notes.get(name, "") for name in names]
        frame = pd.DataFrame({"recipe": names, "note": notes})
        ui.show_table(frame.head(MAX_RECIPES), RECIPE_COLUMNS, f"Table of {len(frame)} recipes")


page()
