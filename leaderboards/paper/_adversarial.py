"""What Tables 2 and 4 share: their rows, labels and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from leaderboards.spec import Baseline, RowSpec

LABELS = ("Method", "Architecture", "Augmentation")
BASIC, GENERATED = "Basic augmentation", "Generated data"
ADDED_LABELS = ("name", "arch", "augmentation")
SIZES = ("Basic", "1M", "10M", "20M", "50M", "100M")

# Rows that print cites by number only, with the names of the reference list.
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
    """One row; ``size`` is Basic or how many generated images, ``name`` empty if print has none."""
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


def with_notes(notes: Mapping[str, str], *rows: RowSpec) -> tuple[RowSpec, ...]:
    """The rows, each with the note of its citation."""

    def note(row: RowSpec) -> tuple[str, ...]:
        citation = row.where["citation"]
        return (notes[citation],) if citation in notes else ()

    return tuple(replace(row, notes=note(row)) for row in rows)


def wang_baseline(table: int) -> Baseline:
    """Wang et al. with as many generated images, as a table prints them."""
    return Baseline(
        {"student_or_arch": "WRN-28-10"},
        {"table": str(table), "citation": "[38]"},
        "wang-dm",
        same=("student_or_arch", "augmentation"),
    )
