"""Loss explorer: where losses move two predictions, and their gradients."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, simplex
from app import components as ui
from app.explorer import (
    BROKEN,
    DKL,
    IKL,
    KL,
    WMSE,
    Gradients,
    Loss,
    class_mean,
    gradients,
    largest_difference,
    length,
    losses,
    tempered,
)

LOW, HIGH = -8.0, 8.0
LETTERS = "ABCDE"
CUSTOM = "custom"
PRESETS = {
    "disagree": ((1.6, 0.2, -0.4, -1.0, -2.0), (-0.4, 1.4, 0.4, 1.0, -1.0)),
    "confident and uncertain": ((6.0, 0.0, -1.0, -2.0, 0.0), (1.0, 0.5, 0.0, -0.5, 0.2)),
    "agree": ((3.0, 1.0, 0.0, -1.0, 0.5), (3.2, 0.8, 0.1, -1.0, 0.4)),
    "both uncertain": ((0.3, 0.1, 0.0, -0.2, 0.1), (0.0, 0.3, -0.1, 0.2, 0.0)),
    CUSTOM: ((2.0, 1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 2.0, 0.0, -1.0)),
}
SIDES = {
    "om": "reference o_m (clean image, teacher)",
    "on": "other o_n (adversarial image, student)",
}
# The panels. KL is left out: it moves predictions as DKL does with both weights 1.
FIELDS = (WMSE, DKL, BROKEN, IKL)
BARS = (KL, WMSE, DKL, BROKEN, IKL)
DETACHED_FROM, EVERY = 10, 2
FRAME_S, LAST_FRAME_S = 0.15, 3.0
COLUMNS = {
    "loss": ui.text_column(
        "Loss", "wMSE and soft CE are the two parts of DKL (Eq. 5).", pinned=True, width=190
    ),
    "value": ui.number_column("Value", "The loss, with its weights.", "%.5f"),
    "to_m": ui.number_column("Gradient to reference", "Length of d loss / d o_m.", "%.5f"),
    "to_n": ui.number_column("Gradient to other", "Length of d loss / d o_n.", "%.5f"),
}


def page() -> None:
    """Show the triangles, then the controls, gradients by class, and the numbers."""
    ui.heading(
        "Loss explorer",
        "Two predictions of classes A, B and C: the reference (orange square: clean image or "
        "teacher) and the other (blue circle: adversarial image or student). Arrows show where a "
        "step of gradient descent would move them, computed with the loss functions that training "
        "uses here.",
    )
    panels = st.container()
    columns = st.columns([2, 1, 1, 1, 1, 2], vertical_alignment="bottom")
    with columns[0]:
        preset = ui.one_of(
            "Logits", list(PRESETS), key="preset", help="Example logits, or custom ones."
        )
    with columns[1]:
        help = "The paper's alpha. With both weights 1, DKL has the gradient of KL."
        alpha = ui.whole_number("wMSE weight", 0, 50, 1, key="wm", help=help)
    with columns[2]:
        beta = ui.whole_number("CE weight", 0, 50, 1, key="wc", help="The paper's beta.")
    with columns[3]:
        help = "The paper's tau, by which logits are divided."
        temperature = ui.whole_number("Temperature", 1, 8, 1, key="T", help=help)
    with columns[4]:
        help = (
            "IKL weights classes by class A's mean prediction (Eq. 10), which gives this much to A."
        )
        confidence = ui.whole_number("Class mean, %", 40, 99, 80, key="mean", help=help)
    with columns[5], st.container(horizontal=True, vertical_alignment="center"):
        help = "As in distillation, where the teacher is fixed and gets no gradient."
        detach = ui.switch("Detach the reference", key="detach", help=help)
        play = st.button(
            "▶ Play", help="Runs gradient descent on both; on the way, detaches the reference."
        )
    words = st.container()
    classes, logits_m, logits_n = _logits(preset)
    by_name = losses(class_mean(classes, 0, confidence / 100), alpha, beta)
    found = {
        name: gradients(loss, logits_m, logits_n, temperature=temperature, detach_m=detach)
        for name, loss in by_name.items()
    }
    with words:
        _observations(found, detach, alpha, beta)
    _bars(found, detach)
    _table(found)
    # Drawn last, so that the rest of the page is complete while the panels play.
    with panels:
        if classes == simplex.CLASSES:
            shown = {name: tempered(by_name[name], temperature) for name in FIELDS}
            _triangles(shown, logits_m, logits_n, detach=detach, play=play)
        else:
            st.caption(
                "The triangles need three classes: set Classes to 3 in the box “Logits of both "
                "predictions” below."
            )


def _logits(preset: str) -> tuple[int, list[float], list[float]]:
    with st.expander("Logits of both predictions", expanded=preset == CUSTOM):
        classes = ui.whole_number("Classes", 3, 5, 3, key="C", help="Number of classes, 3 to 5.")
        start_m, start_n = (start[:classes] for start in PRESETS[preset])
        if preset != CUSTOM:
            frame = pd.DataFrame(
                {"": ["reference o_m", "other o_n"]}
                | {LETTERS[c]: [f"{start_m[c]:g}", f"{start_n[c]:g}"] for c in range(classes)}
            )
            st.table(frame, hide_index=True, alt="The logits of both predictions by class")
            return classes, list(start_m), list(start_n)
        vectors = []
        for column, key, starts in zip(st.columns(2), SIDES, (start_m, start_n), strict=True):
            with column:
                st.markdown(f"**{ui.plain(SIDES[key])}**")
                vectors.append(
                    [
                        ui.slider(letter, LOW, HIGH, start, 0.1, key=f"{key}{c}")
                        for c, (letter, start) in enumerate(zip(LETTERS, starts, strict=False))
                    ]
                )
        return classes, vectors[0], vectors[1]


def _triangles(
    by_name: dict[str, Loss],
    logits_m: list[float],
    logits_n: list[float],
    *,
    detach: bool,
    play: bool,
) -> None:
    panels = {name: column.empty() for name, column in zip(by_name, st.columns(4), strict=True)}
    caption = st.empty()
    fields = {
        name: simplex.field(loss, logits_m, logits_n, detach_m=detach)
        for name, loss in by_name.items()
    }
    scale = simplex.LONGEST_ARROW / (simplex.longest(list(fields.values())) or 1.0)
    marks = {
        name: simplex.field_marks(found, scale, detached=detach) for name, found in fields.items()
    }
    spec = ui.frame_spec(charts.simplex(next(iter(marks.values())).head(1)))
    specs = {name: spec | {"title": name} for name in by_name}
    if play:
        paths = {
            name: simplex.descent(loss, logits_m, logits_n, detached_from=DETACHED_FROM)
            for name, loss in by_name.items()
        }
        _play(paths, specs, panels, caption)
    for name, panel in panels.items():
        with panel:
            ui.show_frame(specs[name], marks[name], f"Arrows of {name} on a triangle")
    state = "detached: it has no arrow" if detach else "trained too: its arrow is orange"
    caption.caption(
        "Blue arrows show where the other prediction would move from each point. All panels have "
        f"the same scale; + BA means with the asymmetry broken. The reference is {state}."
    )


def _play(
    paths: dict[str, simplex.Descent],
    specs: dict[str, dict[str, Any]],
    panels: dict[str, Any],
    caption: Any,
) -> None:
    """Play gradient descent frame by frame, and hold the last frame for a moment."""
    for step in range(0, simplex.STEPS + 1, EVERY):
        for name, panel in panels.items():
            with panel:
                marks = simplex.descent_marks(paths[name], step)
                ui.show_frame(specs[name], marks, f"Descent on {name} on a triangle")
        caption.caption(
            f"Step {step} of {simplex.STEPS}: "
            + (
                "the reference is detached. wMSE no longer moves anything, and DKL reduces to its "
                "cross-entropy; with the asymmetry broken, both parts move the other prediction."
                if step >= DETACHED_FROM
                else "both predictions are trained."
            )
        )
        time.sleep(FRAME_S)
    time.sleep(LAST_FRAME_S)


def _observations(found: dict[str, Gradients], detach: bool, alpha: int, beta: int) -> None:
    """Explain the paper's two observations with the numbers shown."""
    to_other, broken = length(found[WMSE].to_n), length(found[BROKEN].to_n)
    if detach:
        st.markdown(
            f"**The reference is detached**, as a teacher is in distillation. The gradient of wMSE "
            f"to either side is **{to_other + length(found[WMSE].to_m):.3g}**: in Eq. 5 it reaches "
            "only the reference, so it has no effect (Eq. 7) and DKL reduces to its cross-entropy. "
            + (
                "With the asymmetry broken it reaches the other side (Eq. 8): the gradient there "
                f"changes from length {length(found[DKL].to_n):.3g} to **{broken:.3g}**."
                if alpha
                else "Its weight is 0, so breaking the asymmetry changes nothing."
            )
        )
    else:
        st.markdown(
            f"wMSE sends a gradient of length **{length(found[WMSE].to_m):.3g}** to the reference "
            f"and **{to_other:.3g}** to the other side; the soft cross-entropy does the reverse. "
            "Detach the reference to see wMSE lose its effect."
        )
    if alpha == beta == 1:
        gap = largest_difference(found[KL], found[DKL])
        st.markdown(
            f"With both weights 1, the gradients of KL and DKL differ by at most **{gap:.1e}** "
            "(Remark 1 of arXiv:2305.13948, in the edition with Tables 1 to 9). "
            "Their values differ."
        )
    else:
        st.caption("Set both weights to 1 to see that DKL has the gradient of KL.")


def _table(found: dict[str, Gradients]) -> None:
    rows = [
        {"loss": name, "value": g.value, "to_m": length(g.to_m), "to_n": length(g.to_n)}
        for name, g in found.items()
    ]
    ui.show_table(pd.DataFrame(rows), COLUMNS, "Value and gradient lengths of six losses")


def _bars(found: dict[str, Gradients], detach: bool) -> None:
    side = ui.one_of(
        "Gradient to",
        ("the other", "the reference"),
        key="side",
        pills=True,
        help="The other is the prediction for the adversarial image or by the student.",
    )
    shown = {name: found[name].to_n if side == "the other" else found[name].to_m for name in BARS}
    limit = max(max(map(abs, gradient)) for gradient in shown.values()) or 1e-3
    for column, (name, gradient) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with column:
            frame = pd.DataFrame({"label": list(LETTERS[: len(gradient)]), "value": gradient})
            ui.show_chart(
                charts.bars_by_class(frame, title=name, limit=limit),
                alt=f"Gradient of {name} to {side}, by class",
            )
    zero = [name for name, gradient in shown.items() if not any(gradient)]
    st.caption(
        f"To {side}: "
        + (f"no gradient from {', '.join(zero)}" if zero else "every loss has a gradient")
        + (", with the reference detached." if detach else ".")
        + " Gradient descent moves each logit against its bar; red is negative, blue positive."
    )


page()
