"""Table 1: what breaking the asymmetry and global information add."""

from dataclasses import replace

from leaderboards.paper._common import (
    AA,
    BEST_LOG,
    CLEAN,
    DELTA,
    KL_BASELINE,
    NO,
    ROBUST,
    SUBJECT,
    THREAT,
    UNKNOWN_EPOCH,
    YES,
    ikl_params,
)
from leaderboards.spec import DifferenceSpec, InclusionRule, RowSpec, TableSpec


def _row(index: str, gi: str, ba: str, text: str, method: str, **more: object) -> RowSpec:
    return RowSpec(
        (f"({index})", gi, ba, text),
        {"index": f"({index})"},
        method=method,
        recipe=f"table1/{method}",
        selection="last",
        **more,  # type: ignore[arg-type]
    )


TABLE = TableSpec(
    number=1,
    title="from KL to IKL",
    subject=SUBJECT,
    caption="Ablation study on global information (GI) and breaking asymmetry (BA) with DKL.",
    protocol=f"CIFAR-100, {THREAT}, {ROBUST}",
    selection=UNKNOWN_EPOCH,
    labels=("Index", "GI", "BA", "Description"),
    method_label=3,
    last_labels=1,
    columns=(CLEAN, AA),
    rows=(
        _row("a", "Na", "Na", "baseline with KL loss", "kl"),
        _row("b", NO, NO, "DKL, equivalent to KL loss", "dkl"),
        _row("c", NO, YES, "(b) with BA", "dkl-ba"),
        _row(
            "d",
            NO,
            YES,
            "(c) with w = 0.01",
            "dkl-ba-const",
            notes=(
                "A uniform prediction over 100 classes gives w = 0.0001; 0.01 is the prediction "
                "itself.",
            ),
        ),
        _row("e", YES, YES, "(c) with GI, i.e., IKL", "ikl", params=ikl_params(20, 3, 4)),
    ),
    where={"dataset": "CIFAR-100"},
    differences=(
        DifferenceSpec(
            "aa",
            f"{DELTA}AA",
            (KL_BASELINE,),
            "AutoAttack accuracy minus that of the KL baseline, row (a), percentage points; ours "
            "over shared seeds and images.",
        ),
    ),
    includes=InclusionRule(
        ("cifar100",),
        ("adversarial",),
        ("", "", "", "name"),
        methods=("kl", "dkl", "dkl-ba", "dkl-ba-const", "ikl", "gkl"),
    ),
    first_run="python -m harness run --recipe table1/ikl",
    logged=(replace(BEST_LOG, where={"index": "(e)"}),),
    remarks=(
        "Weights, architecture, augmentation and seeds are not printed; the numbers of row (e) are "
        "those of IKL-AT in Table 2: WRN-34-10, basic augmentation.",
    ),
)
