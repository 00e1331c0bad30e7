"""Words that several pages use for the same thing."""

from __future__ import annotations

from typing import Any

from leaderboards.badges import MEANINGS
from leaderboards.protocols import STANDARD_ATTACKS, attacks_of
from leaderboards.summary_view import TITLES, eps_text

STATUS_WORDS = {
    "started": "running",
    "success": "done",
    "error": "failed",
    "cancelled": "stopped",
}

# A page has room for the whole name.
STAGE_TITLES = {**TITLES, "aa": "AutoAttack", "robust": "Robust"}

BADGE_LEGEND = " · ".join(f"**{badge}** {meaning}" for badge, meaning in MEANINGS.items())


def stage_title(name: str) -> str:
    """A stage as papers write it."""
    return STAGE_TITLES.get(name, name)


def protocol_text(facts: dict[str, Any]) -> str:
    """A protocol in a few words: threat model, attacks, images."""
    n = f"n = {int(facts['n'])}" if facts.get("n") else ""
    if not facts.get("attacks"):
        return f"without attack, {n}"
    stages = attacks_of(facts)
    standard = stages == STANDARD_ATTACKS
    names = "AutoAttack" if standard else " + ".join(map(stage_title, stages))
    return f"{facts['norm']} {eps_text(facts['eps'])}, {names}, {n}"
