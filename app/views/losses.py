"""Loss explorer: two logit vectors, the losses between them and where their gradients go."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import charts
from app.components import heading, one_of, switch, whole_number
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
CUSTOM = "own logits"
PRESETS = {
    "disagree": ((4.0, 1.0, 0.0, -1.0, -2.0), (0.5, 3.0, 0.0, 1.0, -1.0)),
    "sure and unsure": ((6.0, 0.0, -1.0, -2.0, 0.0), (1.0, 0.5, 0.0, -0.5, 0.2)),
    "agree": ((3.0, 1.0, 0.0, -1.0, 0.5), (3.2, 0.8, 0.1, -1.0, 0.4)),
    "both unsure": ((0.3, 0.1, 0.0, -0.2, 0.1), (0.0, 0.3, -0.1, 0.2, 0.0)),
    CUSTOM: ((2.0, 1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 2.0, 0.0, -1.0)),
}


def page() -> None:
    """Logits above, then what each loss makes of them."""
    heading(
        "Loss explorer",
        "Two predictions, KL and its decoupled forms between them, computed by the losses that "
        "train models here, and the gradients that each sends to either side.",
    )
    columns = st.columns(4)
    with columns[0]:
        preset = one_of("Logits", list(PRESETS), key="preset", help="Examples, or your own.")
    with columns[1]:
        classes = whole_number("Classes", 3, 5, 3, key="C", help="How many classes, 3 to 5.")
    with columns[2]:
        alpha = whole_number(
            "wMSE weight",
            0,
            50,
            1,
            key="wm",
            help="The paper's alpha. At 1 and 1 DKL has KL's gradient.",
        )
    with columns[3]:
        beta = whole_number("CE weight", 0, 50, 1, key="wc", help="The paper's beta.")
    columns = st.columns(4)
    with columns[0]:
        temperature = whole_number(
            "Temperature", 1, 8, 1, key="T", help="The paper's tau: logits are divided by it."
        )
    with columns[1]:
        confidence = whole_number(
            "Class mean, %", 40, 99, 80, key="mean",
            help="IKL weighs by the class's mean prediction (Eq. 10): this much for class A.",
        )  # fmt: skip
    with columns[2]:
        st.space("small")
        detach = switch(
            "Detach the reference",
            key="detach",
            help="As in distillation: the teacher is fixed and takes no gradient.",
        )
    logits_m, logits_n = _logits(preset, classes)
    found = {
        name: gradients(loss, logits_m, logits_n, temperature=temperature, detach_m=detach)
        for name, loss in losses(class_mean(classes, 0, confidence / 100), alpha, beta).items()
    }
    _told(found, detach, alpha, beta)
    _table(found)
    _bars(found, detach)


def _logits(preset: str, classes: int) -> tuple[list[float], list[float]]:
    start_m, start_n = PRESETS[preset]
    if preset != CUSTOM:
        frame = pd.DataFrame(
            {"": ["reference o_m", "other o_n"]}
            | {LETTERS[c]: [f"{start_m[c]:g}", f"{start_n[c]:g}"] for c in range(classes)}
        )
        st.table(frame, hide_index=True, alt="The logits of both predictions by class")
        return list(start_m[:classes]), list(start_n[:classes])
    sides = st.columns(2)
    vectors = []
    for side, name, key, start in (
        (sides[0], "reference o_m (clean image, teacher)", "om", start_m),
        (sides[1], "other o_n (adversarial image, student)", "on", start_n),
    ):
        with side:
            st.markdown(f"**{name.replace('_', chr(92) + '_')}**")
            vectors.append(
                [
                    st.slider(
                        f"{LETTERS[c]}", LOW, HIGH, start[c], 0.1, key=f"{key}{c}",
                        bind="query-params",
                    )
                    for c in range(classes)
                ]
            )  # fmt: skip
    return vectors[0], vectors[1]


def _told(found: dict[str, Gradients], detach: bool, alpha: int, beta: int) -> None:
    """The paper's two observations, with the numbers at hand."""
    idle, again = length(found[WMSE].to_n), length(found[BROKEN].to_n)
    ce_only = length(found[DKL].to_n)
    if detach:
        st.markdown(
            f"**The reference is detached**, as a distillation teacher is. wMSE's gradient into "
            f"either side is **{idle + length(found[WMSE].to_m):.3g}**: in Eq. 5 it only reaches "
            f"the reference, so it is idle (Eq. 7) and DKL is its cross-entropy alone. With the "
            f"asymmetry broken it reaches the other side (Eq. 8): the gradient there goes from "
            f"length {ce_only:.3g} to **{again:.3g}**."
        )
    else:
        st.markdown(
            f"wMSE sends a gradient of length **{length(found[WMSE].to_m):.3g}** to the reference "
            f"and **{idle:.3g}** to the other side, the soft cross-entropy the other way round. "
            "Detach the reference to see wMSE fall idle."
        )
    if alpha == beta == 1:
        gap = largest_difference(found[KL], found[DKL])
        st.markdown(
            f"With both weights 1, the gradients of KL and DKL differ by at most **{gap:.1e}** "
            "(Theorem 1); their values differ."
        )
    else:
        st.caption("Set both weights to 1 to see DKL's gradient equal KL's.")


def _table(found: dict[str, Gradients]) -> None:
    frame = pd.DataFrame(
        {
            "loss": list(found),
            "value": [each.value for each in found.values()],
            "to_m": [length(each.to_m) for each in found.values()],
            "to_n": [length(each.to_n) for each in found.values()],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "loss": st.column_config.TextColumn(
                "Loss",
                pinned=True,
                width=190,
                help="wMSE and soft CE are the two parts of DKL (Eq. 5).",
            ),
            "value": st.column_config.NumberColumn(
                "Value", format="%.5f", help="With its weights."
            ),
            "to_m": st.column_config.NumberColumn(
                "Gradient to reference", format="%.5f", help="Length of d loss / d o_m."
            ),
            "to_n": st.column_config.NumberColumn(
                "Gradient to other", format="%.5f", help="Length of d loss / d o_n."
            ),
        },
        alt="Value and gradient lengths of six losses",
    )


def _bars(found: dict[str, Gradients], detach: bool) -> None:
    side = one_of(
        "Gradient into",
        ("the other", "the reference"),
        key="side",
        pills=True,
        help="The other is the adversarial image's or the student's prediction.",
    )
    field = "to_n" if side == "the other" else "to_m"
    shown = [KL, WMSE, DKL, BROKEN, IKL]
    frame = pd.DataFrame(
        [
            {"loss": name, "label": LETTERS[place], "value": value}
            for name in shown
            for place, value in enumerate(getattr(found[name], field))
        ]
    )
    st.altair_chart(
        charts.bars_by_class(frame, title="Gradient"),
        width="content",
        alt=f"Gradients of {len(shown)} losses into {side}, by class",
    )
    zero = [name for name in shown if not any(getattr(found[name], field))]
    st.caption(
        f"Into {side}: "
        + (f"no gradient from {', '.join(zero)}" if zero else "every loss has a gradient")
        + (", with the reference detached." if detach else ".")
        + " A descent step goes against a bar; red below zero, blue above."
    )


page()
