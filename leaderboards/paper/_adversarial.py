"""What Tables 2 and 4 share: their rows, labels and words."""

from __future__ import annotations

from collections.abc import Mapping

from leaderboards.spec import RowSpec

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
    *,
    label: str = "",
    params: Mapping[str, float] | None = None,
    where: Mapping[str, str] | None = None,
    selection: str = "",
    notes: tuple[str, ...] = (),
) -> RowSpec:
    """One row; ``size`` is Basic or how many generated images, ``name`` empty if print has none."""
    augmentation = size if size == "Basic" else f"{size} Generated Data"
    method_printed = name or CITED[citation]
    shown = label or " ".join(filter(None, (SHORT.get(citation, method_printed), citation)))
    facts = {"method": method_printed, "student_or_arch": arch, "augmentation": augmentation}
    return RowSpec(
        (shown, arch, augmentation),
        facts | dict(where or {}),
        BASIC if size == "Basic" else GENERATED,
        method=method,
        params=params or {},
        recipe=recipe,
        selection=selection,
        notes=notes,
    )
