"""A run's training curves, and its live progress while it runs."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, live, queries
from app import components as ui
from app.labels import watched_images
from harness.store.text import counted

REFRESH_S = 3


@st.fragment(run_every=REFRESH_S)
def watch(run_id: str, status: str) -> None:
    """Show what a running run is doing; reload the page when its status has changed."""
    ui.begin()
    with ui.errors_as_messages():
        run = ui.query(queries.run, run_id)
        if run["status"] != status:
            st.rerun()
        epochs = _epochs(run)
        now = live.live(ui.results_folder(), run_id)
        planned = run["epochs_planned"] and int(run["epochs_planned"])
        text = ui.plain(live.sentence(now, len(epochs), planned))
        if now is not None and now.share is not None and not now.is_silent:
            st.progress(min(1.0, max(0.0, now.share)), text=text)
        else:
            st.markdown(f"**{text}**")
        if epochs:
            last = epochs[-1]
            st.caption(
                f"After epoch {int(last['epoch'])}: {ui.plain(live.epoch_facts(last))}. "
                f"This view refreshes every {REFRESH_S} seconds."
            )


@st.fragment(run_every=REFRESH_S)
def growing_curves(run: dict[str, Any]) -> None:
    """Show the curves of a running run, and refresh them."""
    ui.begin()
    with ui.errors_as_messages():
        curves(run)


def curves(run: dict[str, Any]) -> None:
    """Show accuracies, losses, learning rate and radius by epoch."""
    epochs = _epochs(run)
    if not epochs:
        st.info("No epoch is finished yet, or the model was not trained here.")
        return
    left, right = st.columns(2)
    with left:
        _accuracy(epochs, watched_images(run["config"]))
    with right:
        _loss(epochs, run["selected_epoch"])
    with left:
        _single(epochs, "lr", "Learning rate")
    with right:
        _single(epochs, "eps", "Radius")


def _epochs(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of the finished epochs; for a running run, from its directory if it has more."""
    stored = ui.records(ui.query(queries.epochs, run["run_id"]))
    for record in stored:
        record["parts"] = json.loads(record["parts"]) if isinstance(record["parts"], str) else {}
    if run["status"] == "started":
        running = queries.running_epochs(ui.results_folder(), run["run_id"])
        return running if len(running) > len(stored) else stored
    return stored


def _accuracy(epochs: list[dict[str, Any]], watched: str) -> None:
    titles = {
        "clean_val": f"clean, {watched}",
        "pgd_val": f"under PGD, {watched}",
        "clean_test": "clean, all test images",
    }
    frame = _long(epochs, {title: _column(epochs, name) for name, title in titles.items()}, 100)
    if frame.empty:
        st.caption("This run measured no accuracy during training.")
        return
    names = list(dict.fromkeys(frame["series"]))
    chart = charts.lines(frame, y_title="Accuracy (%)", series=names)
    ui.show_chart(chart, alt=f"Accuracy over {counted(len(epochs), 'epoch')}")
    last = frame[frame["epoch"] == frame["epoch"].max()]
    values = "; ".join(f"{row.series}: {row.value:.1f}%" for row in last.itertuples())
    st.caption(
        f"After epoch {int(frame['epoch'].max())}: {values}. These are not evaluation results."
    )


def _loss(epochs: list[dict[str, Any]], selected: float | None) -> None:
    names = list(dict.fromkeys(name for each in epochs for name in each.get("parts") or {}))
    series = {"training loss": _column(epochs, "loss")} | {
        name: [(each.get("parts") or {}).get(name) for each in epochs] for name in names
    }
    frame = _long(epochs, series, 1)
    if frame.empty:
        return
    chart = charts.lines(frame, y_title="Loss", series=list(dict.fromkeys(frame["series"])))
    ui.show_chart(
        chart, alt=f"Training loss and its {len(names)} parts over {counted(len(epochs), 'epoch')}"
    )
    losses = frame[frame["series"] == "training loss"]["value"]
    parts = f", with its parts {', '.join(map(ui.plain, names))}" if names else ""
    used = f" The weights of epoch {int(selected)} were evaluated." if selected else ""
    st.caption(f"Training loss from {losses.iloc[0]:.4g} to {losses.iloc[-1]:.4g}{parts}.{used}")


def _single(epochs: list[dict[str, Any]], name: str, title: str) -> None:
    frame = _long(epochs, {title: _column(epochs, name)}, 1)
    if frame.empty:
        return
    chart = charts.lines(frame, y_title=title, series=[title], height=170)
    ui.show_chart(chart, alt=f"{title} over {counted(len(epochs), 'epoch')}")
    first, last = frame["value"].iloc[0], frame["value"].iloc[-1]
    st.caption(f"{title} from {first:.4g} to {last:.4g}.")


def _column(epochs: list[dict[str, Any]], name: str) -> list[Any]:
    return [each.get(name) for each in epochs]


def _long(epochs: list[dict[str, Any]], series: dict[str, list[Any]], scale: float) -> pd.DataFrame:
    """Rows of ``epoch``, ``series`` and ``value``, without missing values."""
    numbers = [each["epoch"] for each in epochs]
    parts = [
        pd.DataFrame({"epoch": numbers, "series": title, "value": pd.Series(values, dtype=float)})
        for title, values in series.items()
    ]
    frame = pd.concat(parts).dropna(subset="value")
    return frame.assign(value=scale * frame["value"])
