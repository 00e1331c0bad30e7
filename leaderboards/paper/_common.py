"""Texts and columns that several tables share."""

from __future__ import annotations

from collections.abc import Mapping

from leaderboards.protocols import accuracy_help
from leaderboards.spec import (
    Baseline,
    ColumnSpec,
    Disputed,
    InclusionRule,
    Logged,
    RowSpec,
    TableSpec,
)
from leaderboards.table import DIFFERENCE_ROW, HEAD_ROW

ALPHA, BETA, TAU, DELTA, EPSILON = "\u03b1", "\u03b2", "\u03c4", "\u0394", "\u03b5"
YES, NO, TIMES = "\u2713", "\u2717", "\u00d7"
LINF = "\u2113\u221e"

THREAT = f"{LINF}, {EPSILON} = 8/255"
CLEAN = ColumnSpec("clean", ("Clean",), "clean", help=accuracy_help("clean"))
AA = ColumnSpec(
    "aa",
    ("AA",),
    "aa",
    help="Accuracy under AutoAttack: the share of test images that no attack breaks, percent.",
)
APGD_CE = ColumnSpec(
    "apgd-ce",
    ("APGD-CE",),
    "apgd-ce",
    help="Accuracy after AutoAttack's first stage, APGD on cross-entropy, percent.",
)
APGD_T = ColumnSpec(
    "apgd-t",
    ("APGD-T",),
    "apgd-t",
    help="Accuracy after the second stage, targeted APGD on the images left by the first, percent.",
)
# The methods that the paper proposes.
SUBJECT = ("ikl", "ikl-kd")
ROBUST = "AutoAttack (standard), n = 10,000"
UNKNOWN_EPOCH = (
    "The paper does not say which epoch its numbers are from; the released training code averages "
    "over epochs and takes the last."
)
KL_BASELINE = Baseline(
    {"student_or_arch": "WRN-34-10", "augmentation": "Basic", "dataset": "CIFAR-100"},
    {"table": "1", "index": "(a)"},
    "kl",
)

SAME_ROW = (
    "Tables 6 and 8 (temperature 4) and Table 9 (temperature 2) print the same row, 63.59 / 31.44, "
    f"for {ALPHA} = 24. One is a copy error; the numbers fit the neighbours at temperature 2."
)
IMPOSSIBLE = (
    f"For {BETA} = 1, Table 6 prints AutoAttack 30.69, above its own second stage, APGD-T 30.66, "
    "which is impossible in one cascade of attacks."
)
BEST_LOG = Logged(
    {"alpha": "20", "beta": "3"}, {"clean": 66.51, "apgd_ce": 35.44, "apgd_t": 31.43, "aa": 31.43}
)
SECOND_LOG = Logged(
    {"alpha": "20", "beta": "4"}, {"clean": 64.08, "apgd_ce": 35.92, "apgd_t": 31.65, "aa": 31.65}
)


def ikl_params(alpha: float, beta: float, tau: float) -> Mapping[str, float]:
    """Return the paper's weights and temperature under their names here."""
    return {"wmse_weight": alpha, "ce_weight": beta, "temperature": tau}


def ablation(
    number: int,
    tau: int,
    alphas: tuple[int, ...],
    betas: tuple[int, ...],
    *,
    title: str,
    caption: str,
    columns: tuple[ColumnSpec, ...] = (CLEAN, AA),
    disputed: tuple[Disputed, ...] = (),
    logged: tuple[Logged, ...] = (),
    same_row: str = "66.51 / 31.45 is that",
) -> TableSpec:
    """Return Table 6, 8 or 9, whose panels vary one weight of IKL with the other at 3 or 20.

    ``same_row`` names the row that Table 2 prints too.
    """
    settings = [("a", alpha, 3) for alpha in alphas] + [("b", 20, beta) for beta in betas]
    rows = tuple(
        RowSpec(
            (f"{ALPHA} = {alpha}" if panel == "a" else f"{BETA} = {beta}",),
            {"panel": panel, "alpha": str(alpha), "beta": str(beta)},
            group=f"({panel})",
            method="ikl",
            params=ikl_params(alpha, beta, tau),
            recipe=f"table{number}/ikl-a{alpha}-b{beta}",
            selection="last",
        )
        for panel, alpha, beta in settings
    )
    return TableSpec(
        number=number,
        title=title,
        caption=caption,
        protocol=f"CIFAR-100, {THREAT}, {ROBUST}",
        selection=UNKNOWN_EPOCH,
        labels=("Weight",),
        columns=columns,
        rows=rows,
        where={"dataset": "CIFAR-100", "tau": str(tau)},
        includes=InclusionRule(("cifar100",), ("adversarial",), ("name",), methods=("ikl",)),
        first_run=f"python -m harness run --recipe table{number}/ikl-a20-b3",
        ranked_within=("group",),
        panels={
            "(a)": f"Effects of {ALPHA} with {BETA} = 3",
            "(b)": f"Effects of {BETA} with {ALPHA} = 20",
        },
        disputed=(Disputed({"panel": "a", "alpha": "24"}, SAME_ROW, ("clean", "aa")), *disputed),
        logged=logged,
        remarks=(
            "The paper's alpha is wmse_weight here, its beta ce_weight, its tau temperature; the "
            "released code swaps alpha and beta.",
            "Architecture and augmentation are not printed; the row "
            f"{same_row} of Table 2: WRN-34-10, basic augmentation.",
        ),
    )


def pairs(teachers_students: tuple[tuple[str, str], ...]) -> tuple[ColumnSpec, ...]:
    """Return one column of top-1 accuracy for each teacher-student pair."""
    return tuple(
        ColumnSpec(
            f"{teacher}/{student}".lower(),
            (teacher, student),
            "clean",
            printed="top1",
            where={"teacher": teacher, "student_or_arch": student},
            help=f"Top-1 accuracy of {student} distilled from {teacher}, percent, mean of three "
            "runs.",
        )
        for teacher, student in teachers_students
    )


def distillation_rows(
    features: tuple[tuple[str, str, str, str], ...],
    logits: tuple[tuple[str, str, str, str], ...],
    recipe: str,
    extra: Mapping[str, str] | None = None,
) -> tuple[RowSpec, ...]:
    """Return rows for teacher and student alone, methods by what they match, and gain over KD.

    Args:
        features: for each method that matches features, its name in ``reported.csv``, its label
            with citation as printed, its registered name, and its selection.
        logits: the same for methods that match logits, ending with KD and IKL-KD.
        recipe: name of the recipe of the first pair, which every method has.
        extra: method to the text of a second label column, if there is one.
    """
    blank = ("",) if extra is not None else ()
    rows = [
        RowSpec(
            (label, *blank),
            {"manner": "", "method": printed},
            *("Alone", HEAD_ROW, metric, arch_fact),
            method="vanilla",
        )
        for label, printed, metric, arch_fact in (
            ("Teacher", "Teacher", "teacher_top1", "teacher"),
            ("Student", "Student (vanilla)", "student_top1", "student_or_arch"),
        )
    ]
    for group, methods in (("Features", features), ("Logits", logits)):
        for name, label, registered, selection in methods:
            rows.append(
                RowSpec(
                    (label, *([extra[name]] if extra is not None else [])),
                    {"method": name, "manner": group},
                    group,
                    method=registered,
                    recipe=recipe,
                    selection=selection,
                )
            )
    rows.append(
        RowSpec(
            (DELTA, *blank),
            {"method": "Delta (IKL-KD minus KD)", "manner": "Logits"},
            "Logits",
            DIFFERENCE_ROW,
            minus=(len(rows) - 1, len(rows) - 2),
        )
    )
    return tuple(rows)


KD_SELECTION = (
    "Rows differ: FitNet, RKD, CRD and KD are quoted from a code base that reports the last epoch; "
    "the others report the best epoch on the test images."
)
DISTILLED = InclusionRule(("cifar100",), ("distillation",), ("name",))
TEACHER_HEADER = (
    "The accuracies of the teachers are printed one column too far to the right; they are "
    "corrected here by those published with RepDistiller."
)
