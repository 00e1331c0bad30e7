"""Words that several pages use for the same thing."""

from __future__ import annotations

from typing import Any

from leaderboards.badges import MEANINGS

STATUS_WORDS = {
    "started": "running",
    "success": "done",
    "error": "failed",
    "cancelled": "stopped",
}

STAGE_TITLES = {
    "clean": "Clean",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
    "aa": "AutoAttack",
    "robust": "Robust",
}

BADGE_LEGEND = " · ".join(f"**{badge}** {meaning}" for badge, meaning in MEANINGS.items())


def stage_title(name: str) -> str:
    """A stage as papers write it."""
    return STAGE_TITLES.get(name, name)


def eps_text(eps: float | None) -> str:
    """``8/255``, or a decimal where it is no such fraction; empty without one."""
    if eps is None:
        return ""
    steps = eps * 255
    return f"{steps:.0f}/255" if steps and abs(steps - round(steps)) < 1e-6 else f"{eps:.4g}"


def protocol_text(facts: dict[str, Any]) -> str:
    """A protocol in a few words: threat model, attacks, images."""
    n = f"n = {int(facts['n'])}" if facts.get("n") else ""
    if not facts.get("attacks"):
        return f"without attack, {n}"
    stages = tuple(str(facts["attacks"]).split(","))
    names = (
        "AutoAttack"
        if stages == ("apgd-ce", "apgd-t", "fab-t", "square")
        else " + ".join(map(stage_title, stages))
    )
    return f"{facts['norm']} {eps_text(facts['eps'])}, {names}, {n}"
