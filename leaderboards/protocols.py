"""Whether a run was measured as the paper's numbers were, and how a protocol is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import eps_text
from leaderboards.render.summary import metric_title

STANDARD_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
# Whatever else a version says, such as a smaller budget, is a departure.
STANDARD_VERSION = re.compile(r"standard \S+")
PAPER_EPS = 8 / 255


def attacks_of(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a run's evaluation, in order."""
    return tuple(run["attacks"].split(",")) if run["attacks"] else ()


def is_papers(run: Mapping[str, Any], attacks: tuple[str, ...]) -> bool:
    """Whether printed numbers were measured as this run was."""
    if run["partial"] or run["scale"] != "paper" or run["precision"] != "float32":
        return False
    if not attacks:
        return bool(run["task"] == "distillation")
    return is_papers_attack(run, attacks)


def is_papers_attack(run: Mapping[str, Any], attacks: tuple[str, ...]) -> bool:
    """Whether the attack is the paper's: all of AutoAttack at its radius."""
    return bool(
        attacks == STANDARD_ATTACKS
        and STANDARD_VERSION.fullmatch(run["attack_version"]) is not None
        and run["norm"] == "Linf"
        and abs(run["eps"] - PAPER_EPS) < 1e-9
    )


def protocol_facts(told: Mapping[str, Any], attacks: Sequence[str]) -> list[str]:
    """The protocol in a few words each, the data set first."""
    facts = [told["dataset"]]
    if attacks:
        standard = tuple(attacks) == STANDARD_ATTACKS
        names = "AutoAttack" if standard else " + ".join(map(metric_title, attacks))
        # The version's first word says again which attacks there are.
        version = told["attack_version"].partition(" ")[2]
        facts += [f"{told['norm']} {eps_text(told['eps'])}", f"{names} ({version})"]
    else:
        facts.append("without attack")
    if told["precision"] != "float32":
        facts.append(told["precision"])
    return [*facts, f"n = {told['n']}" + (", partial" if told["partial"] else "")]
