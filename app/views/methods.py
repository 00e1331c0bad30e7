"""Methods: what each is, in formula, words, parameters and recipes."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.components import heading, one_of, plain, some_of, with_results
from harness.method import Method
from harness.registry import METHODS

FAMILIES = ("adversarial", "distillation", "natural")
MOST_ROWS = 400
# The card that is open when the address names none: what the tables are about.
FIRST = "ikl"


def page() -> None:
    """A filterable list, and below it the chosen card."""
    heading(
        "Methods", "Every loss that can be trained here, as its paper states it and as it runs."
    )
    cards = {name: METHODS.get(name) for name in METHODS.names()}
    left, right = st.columns([1, 2])
    with left:
        families = some_of("Trains for", FAMILIES, key="family")
    names = [name for name, m in cards.items() if not families or m.card.family in families]
    # A card that the address names stays open whatever the list is narrowed to.
    named = st.query_params.get("m", "")
    open_to = [*names, *[named] * (named in cards and named not in names)]
    with right:
        first = FIRST if FIRST in names else names[0]
        chosen = one_of("Method", open_to, key="m", default=first, help="The name of --method.")
    _card(chosen, cards[chosen])
    with st.expander(f"All {len(names)} methods", expanded=False):
        _list({name: cards[name] for name in names})


def _list(cards: dict[str, Method]) -> None:
    frame = pd.DataFrame(
        [
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
    )
    st.dataframe(
        frame,
        hide_index=True,
        placeholder="",
        column_config={
            "title": st.column_config.TextColumn("Method", pinned=True, help="As papers print it."),
            "name": st.column_config.TextColumn("Name", help="For --method."),
            "family": st.column_config.TextColumn("Trains for", help="What it trains for."),
            "tables": st.column_config.TextColumn("Tables", help="Tables that hold a row of it."),
            "summary": st.column_config.TextColumn("Idea", width="large", help="In a sentence."),
            "page": st.column_config.LinkColumn("Card", display_text="open", help="Its card."),
        },
        alt=f"Table of {len(frame)} methods",
    )


def _card(name: str, method: Method) -> None:
    card = method.card
    st.header(plain(card.title), anchor=False)
    st.markdown(plain(card.summary))
    st.latex(card.formula)
    with st.container(horizontal=True, gap="small"):
        st.badge(card.family, color="blue")
        if card.needs_teacher:
            st.badge("needs a teacher", color="gray")
        for number in card.tables:
            st.badge(f"Table {number}", color="gray")
    st.markdown(f"{plain(card.paper)}" + (f" [{plain(card.url)}]({card.url})" if card.url else ""))
    st.code(with_results(f"python -m harness run --method {name}"), language="bash")
    _parameters(method)
    for note in card.notes:
        st.markdown(f"- {plain(note)}")
    _recipes(method)
    if card.bibtex:
        with st.expander("BibTeX"):
            st.code(card.bibtex, language="bibtex")


def _parameters(method: Method) -> None:
    values = method.params().model_dump(mode="json")
    if not values:
        st.caption("It has no parameters.")
        return
    released = method.card.released_names
    fields = type(method.params()).model_fields
    frame = pd.DataFrame(
        [
            {
                "name": name,
                "value": str(value),
                "released": released.get(name, ""),
                "doc": fields[name].description or "",
            }
            for name, value in values.items()
        ]
    )
    columns = {
        "name": st.column_config.TextColumn(
            "Parameter", pinned=True, help="For --set params.NAME=."
        ),
        "value": st.column_config.TextColumn("Default", help="The default value."),
        "released": st.column_config.TextColumn(
            "In released code", help="What the authors' code calls it, where that differs."
        ),
        "doc": st.column_config.TextColumn("Meaning", width="large", help="What it does."),
    }
    used = [name for name in columns if name in ("name", "value") or frame[name].any()]
    st.dataframe(
        frame[used],
        hide_index=True,
        placeholder="",
        column_config=columns,
        alt=f"Parameters of the method: {', '.join(values)}",
    )


def _recipes(method: Method) -> None:
    with st.expander(f"Recipes ({len(method.recipes)})"):
        frame = pd.DataFrame(
            {
                "recipe": sorted(method.recipes),
                "note": [method.recipe_notes.get(name, "") for name in sorted(method.recipes)],
            }
        )
        st.dataframe(
            frame.head(MOST_ROWS),
            hide_index=True,
            placeholder="",
            column_config={
                "recipe": st.column_config.TextColumn("Recipe", pinned=True, help="For --recipe."),
                "note": st.column_config.TextColumn(
                    "Note", width="large", help="Where paper, logs and code contradict each other."
                ),
            },
            alt=f"Table of {len(frame)} recipes",
        )


page()
