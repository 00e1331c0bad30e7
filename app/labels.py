"""Words that several pages use for the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.config import eps_text
from leaderboards.protocols import STANDARD_ATTACKS, attacks_of
from leaderboards.render.summary import TITLES
from leaderboards.table import MEANINGS

STATUS_WORDS = {
    "started": "running",
    "success": "done",
    "error": "failed",
    "cancelled": "stopped",
}

# A page has room for the whole name.
STAGE_TITLES = {**TITLES, "aa": "AutoAttack", "robust": "Robust"}

BADGE_LEGEND = " · ".join(f"**{sign}** {meaning}" for sign, meaning in MEANINGS.items())


def stage_title(name: str) -> str:
    """A stage as papers write it."""
    return STAGE_TITLES.get(name, name)


def protocol_text(facts: Mapping[str, Any]) -> str:
    """A protocol in a few words: threat model, attacks, precision, images, and if not all of them.

    Empty where nothing was evaluated.
    """
    if not known(facts.get("n")):
        return ""
    n = f"n = {int(facts['n'])}" + (", partial" if known(facts.get("partial")) else "")
    return ", ".join([*attack_texts(facts), n])


def run_title(run: Mapping[str, Any]) -> str:
    """A run among others: method, data set, network, seed and name."""
    seed = "" if pd.isna(run["seed"]) else f"seed {int(run['seed'])}"
    facts = [run["title"], run["dataset"], run["arch"], seed, run["run_id"]]
    return ", ".join(str(fact) for fact in facts if isinstance(fact, str) and fact)


def attack_texts(facts: Mapping[str, Any]) -> list[str]:
    """Threat model and attacks, with all that is not standard in them."""
    precision = facts.get("precision")
    unusual = [str(precision)] if known(precision) and precision != "float32" else []
    if not known(facts.get("attacks")):
        return ["without attack", *unusual]
    stages = attacks_of(facts)
    names = "AutoAttack" if stages == STANDARD_ATTACKS else " + ".join(map(stage_title, stages))
    # Behind the package stands what departs from the standard budget.
    version = facts.get("attack_version")
    unusual += str(version).split()[2:] if known(version) else []
    return [f"{facts['norm']} {eps_text(facts['eps'])}", names, *unusual]


def known(value: Any) -> bool:
    """Whether a column of the database holds something, which is neither empty nor false."""
    return value is not None and not pd.isna(value) and bool(value)
