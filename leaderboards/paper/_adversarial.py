"""The parts that Tables 2 and 4 share: everything but their rows, notes and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from leaderboards.paper._common import (
    AA,
    CLEAN,
    DELTA,
    ROBUST,
    SUBJECT,
    THREAT,
    UNKNOWN_EPOCH,
)
from leaderboards.spec import (
    DATASETS,
    Baseline,
    DifferenceSpec,
    InclusionRule,
    RowSpec,
    Scale,
    TableSpec,
)

BASIC, GENERATED = "Basic augmentation", "Generated data"

# Names from the reference list for rows that the paper cites by number only.
CITED = {
    "[63]": "Rice et al.",
    "[61]": "Sehwag et al. (proxy distributions)",
    "[59]": "Pang et al. (SCORE)",
    "[62]": "Rebuffi et al.",
    "[37]": "Gowal et al.",
    "[38]": "Wang et al. (better diffusion models)",
}
SHORT = {"[61]": "Sehwag et al.", "[59]": "Pang et al. (SCORE)", "[38]": "Wang et al."}


def row(
    name: str,
    citation: str,
    arch: str,
    size: str,
    recipe: str,
    method: str,
    selection: str = "",
    *,
    label: str = "",
    params: Mapping[str, float] | None = None,
    where: Mapping[str, str] | None = None,
) -> RowSpec:
    """Return one row.

    ``size`` is Basic or the number of generated images; ``name`` is empty if the paper has none.
    """
    augmentation = size if size == "Basic" else f"{size} Generated Data"
    method_printed = name or CITED[citation]
    facts = {"method": method_printed, "citation": citation, "student_or_arch": arch}
    facts |= {"augmentation": augmentation, **(where or {})}
    shown = label or " ".join(filter(None, (SHORT.get(citation, method_printed), citation)))
    return RowSpec(
        (shown, arch, augmentation),
        facts,
        BASIC if size == "Basic" else GENERATED,
        method=method,
        params=params or {},
        recipe=recipe,
        selection=selection,
    )


def adversarial_table(
    number: int,
    dataset: str,
    rows: tuple[RowSpec, ...],
    *,
    notes: Mapping[str, str],
    basic: Baseline,
    basic_text: str,
    bold: str,
    **more: Any,
) -> TableSpec:
    """Return the table of adversarial training on a dataset.

    ``notes`` maps a citation to the note on its rows. ``basic`` is the KL baseline of the rows
    without generated images, ``basic_text`` its name, and ``bold`` explains the paper's marks.
    """
    registered = DATASETS[dataset]
    wang = Baseline(
        {"student_or_arch": "WRN-28-10"},
        {"table": str(number), "citation": "[38]"},
        "wang-dm",
        same=("student_or_arch", "augmentation"),
    )
    return TableSpec(
        number=number,
        title=f"{dataset} robust",
        caption=f"Accuracy (%) on clean images and under AutoAttack on {dataset}. {bold}",
        protocol=f"{dataset}, {THREAT}, {ROBUST}",
        selection=UNKNOWN_EPOCH,
        labels=("Method", "Architecture", "Augmentation"),
        columns=(CLEAN, AA),
        rows=tuple(
            replace(each, notes=tuple(notes[key] for key in notes if key == each.where["citation"]))
            for each in rows
        ),
        where={"dataset": dataset},
        ranked_within=("augmentation",),
        stub="Dataset",
        stub_text=f"{dataset} ({THREAT})",
        differences=(
            DifferenceSpec(
                "aa",
                f"{DELTA}AA",
                (basic, wang),
                "AutoAttack accuracy minus that of KL training under the same conditions, "
                "percentage points; ours over shared seeds and images. The baseline is "
                f"{basic_text} for rows without generated images, else Wang et al. with the same "
                "number of them.",
            ),
        ),
        includes=InclusionRule(
            (registered,), ("natural", "adversarial"), ("name", "arch", "augmentation")
        ),
        threat=(registered, "8/255"),
        scale=Scale(dataset, "WRN-34-10", 200, 50_000, 10_000, 8 / 255),
        subject=SUBJECT,
        **more,
    )
