"""Loss explorer: the losses between two logit vectors, and their gradients."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import charts
from app import components as ui
from app.explorer import (
    BROKEN,
    DKL,
    IKL,
    KL,
    WMSE,
    Gradients,
    class_mean,
    gradients,
    largest_difference,
    length,
    losses,
)

LOW, HIGH = -8.0, 8.0
LETTERS = "ABCDE"
CUSTOM = "custom"
PRESETS = {
    "disagree": ((4.0, 1.0, 0.0, -1.0, -2.0), (0.5, 3.0, 0.0, 1.0, -1.0)),
    "confident and uncertain": ((6.0, 0.0, -1.0, -2.0, 0.0), (1.0, 0.5, 0.0, -0.5, 0.2)),
    "agree": ((3.0, 1.0, 0.0, -1.0, 0.5), (3.2, 0.8, 0.1, -1.0, 0.4)),
    "both uncertain": ((0.3, 0.1, 0.0, -0.2, 0.1), (0.0, 0.3, -0.1, 0.2, 0.0)),
    CUSTOM: ((2.0, 1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 2.0, 0.0, -1.0)),
}
SIDES = {
    "om": "reference o_m (clean image, teacher)",
    "on": "other o_n (adversarial image, student)",
}
COLUMNS = {
    "loss": ui.text_column(
        "Loss", "wMSE and soft CE are the two parts of DKL (Eq. 5).", pinned=True, width=190
    ),
    "value": ui.number_column("Value", "With its weights.", "%.5f"),
    "to_m": ui.number_column("Gradient to reference", "Length of d loss / d o_m.", "%.5f"),
    "to_n": ui.number_column("Gradient to other", "Length of d loss / d o_n.", "%.5f"),
}


def page() -> None:
    """Logits and weights above, values and gradients of the losses below."""
    ui.heading(
        "Loss explorer",
        "KL and its decoupled forms between two predictions, and the gradients that each loss "
        "sends to either side, computed by the functions that train models here.",
    )
    columns = st.columns(4)
    with columns[0]:
        preset = ui.one_of(
            "Logits", list(PRESETS), key="preset", help="An example, or custom ones."
        )
    with columns[1]:
        classes = ui.whole_number("Classes", 3, 5, 3, key="C", help="Number of classes, 3 to 5.")
    with columns[2]:
        help = "The paper's alpha. With both weights 1, DKL has the gradient of KL."
        alpha = ui.whole_number("wMSE weight", 0, 50, 1, key="wm", help=help)
    with columns[3]:
        beta = ui.whole_number("CE weight", 0, 50, 1, key="wc", help="The paper's beta.")
    columns = st.columns(4)
    with columns[0]:
        help = "The paper's tau: logits are divided by it."
        temperature = ui.whole_number("Temperature", 1, 8, 1, key="T", help=help)
    with columns[1]:
        help = "IKL weights classes by the class's mean prediction (Eq. 10): this much for class A."
        confidence = ui.whole_number("Class mean, %", 40, 99, 80, key="mean", help=help)
    with columns[2]:
        st.space("small")
        help = "As in distillation: the teacher is fixed and gets no gradient."
        detach = ui.switch("Detach the reference", key="detach", help=help)
    logits_m, logits_n = _logits(preset, classes)
    found = {
        name: gradients(loss, logits_m, logits_n, temperature=temperature, detach_m=detach)
        for name, loss in losses(class_mean(classes, 0, confidence / 100), alpha, beta).items()
    }
    _observations(found, detach, alpha, beta)
    _table(found)
    _bars(found, detach)


def _logits(preset: str, classes: int) -> tuple[list[float], list[float]]:
    start_m, start_n = (start[:classes] for start in PRESETS[preset])
    if preset != CUSTOM:
        frame = pd.DataFrame(
            {"": ["reference o_m", "other o_n"]}
            | {LETTERS[c]: [f"{start_m[c]:g}", f"{start_n[c]:g}"] for c in range(classes)}
        )
        st.table(frame, hide_index=True, alt="The logits of both predictions by class")
        return list(start_m), list(start_n)
    vectors = []
    for column, key, starts in zip(st.columns(2), SIDES, (start_m, start_n), strict=True):
        with column:
            st.markdown(f"**{SIDES[key].replace('_', chr(92) + '_')}**")
            vectors.append(
                [
                    ui.slider(letter, LOW, HIGH, start, 0.1, key=f"{key}{c}")
                    for c, (letter, start) in enumerate(zip(LETTERS, starts, strict=False))
                ]
            )
    return vectors[0], vectors[1]


def _observations(found: dict[str, Gradients], detach: bool, alpha: int, beta: int) -> None:
    """The paper's two observations, with the numbers shown."""
    to_other, broken = length(found[WMSE].to_n), length(found[BROKEN].to_n)
    if detach:
        st.markdown(
            f"**The reference is detached**, as a teacher is in distillation. The gradient of wMSE "
            f"to either side is **{to_other + length(found[WMSE].to_m):.3g}**: in Eq. 5 it reaches "
            "only the reference, so it has no effect (Eq. 7) and DKL reduces to its cross-entropy. "
            f"With the asymmetry broken it reaches the other side (Eq. 8): the gradient there "
            f"grows from length {length(found[DKL].to_n):.3g} to **{broken:.3g}**."
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
            "(Theorem 1); their values differ."
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
        help="The other is the prediction of the adversarial image or the student.",
    )
    shown = {
        name: found[name].to_n if side == "the other" else found[name].to_m
        for name in (KL, WMSE, DKL, BROKEN, IKL)
    }
    frame = pd.DataFrame(
        [
            {"loss": name, "label": letter, "value": value}
            for name, gradient in shown.items()
            for letter, value in zip(LETTERS, gradient, strict=False)
        ]
    )
    ui.show_chart(
        charts.bars_by_class(frame, title="Gradient"),
        width="content",
        alt=f"Gradients of {len(shown)} losses to {side}, by class",
    )
    zero = [name for name, gradient in shown.items() if not any(gradient)]
    st.caption(
        f"To {side}: "
        + (f"no gradient from {', '.join(zero)}" if zero else "every loss has a gradient")
        + (", with the reference detached." if detach else ".")
        + " Gradient descent moves against a bar; red is negative, blue positive."
    )


page()
