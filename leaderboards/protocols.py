"""Names of metrics and protocols, and whether a protocol is the paper's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from harness.config import STANDARD_ATTACKS, eps_text
from harness.evaluation.analysis.comparable import is_sequential

METRIC_TITLES = {
    "clean": "Clean",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
    "aa": "AA",
}
# Metrics in seconds; all others are accuracies.
TIMES = ("sec_per_iter", "train_seconds")
# A version with anything more, such as a smaller budget, is not standard.
STANDARD_VERSION = re.compile(r"standard \S+")
PAPER_EPS = 8 / 255


def metric_title(metric: str) -> str:
    """Return a metric's name as papers write it."""
    return METRIC_TITLES.get(metric, metric)


def accuracy_help(metric: str) -> str:
    """Return what a column of our accuracies shows, in a sentence."""
    if metric == "clean":
        return "Accuracy on the clean test images, percent."
    if metric == "aa":
        return "Accuracy under AutoAttack, percent."
    return (
        f"Accuracy after {metric_title(metric)}, the last attack of runs that were not evaluated "
        "with full AutoAttack, percent. It is not AA: further attacks would lower it."
    )


def attacks_of(run: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stages of a run's evaluation, in order."""
    return tuple(run["attacks"].split(",")) if run["attacks"] else ()


def ranking_metric(attacks: Sequence[str], metrics: Collection[str]) -> str:
    """Return the metric that ranks models: AA if measured, else accuracy after the last attack.

    Without attacks it is clean accuracy. ``metrics`` are those that were measured.
    """
    if not attacks:
        return "clean"
    return "aa" if "aa" in metrics else attacks[-1]


def is_standard_attack(run: Mapping[str, Any]) -> bool:
    """Whether the attack is full standard AutoAttack in float32, at any radius."""
    return bool(
        attacks_of(run) == STANDARD_ATTACKS
        and STANDARD_VERSION.fullmatch(run["attack_version"])
        and run["precision"] == "float32"
    )


def is_papers_attack(run: Mapping[str, Any]) -> bool:
    """Whether the attack is the paper's: standard AutoAttack at its norm and radius."""
    return is_standard_attack(run) and run["norm"] == "Linf" and abs(run["eps"] - PAPER_EPS) < 1e-9


def is_papers_protocol(run: Mapping[str, Any]) -> bool:
    """Whether a run was evaluated with the protocol of the printed numbers."""
    if run["scale"] != "paper" or run["precision"] != "float32":
        return False
    return is_papers_attack(run) if run["attacks"] else run["task"] == "distillation"


def protocol_facts(protocol: Mapping[str, Any], attacks: Sequence[str]) -> list[str]:
    """Return the protocol as short phrases, the dataset first."""
    facts = [protocol["dataset"]]
    if attacks:
        standard = tuple(attacks) == STANDARD_ATTACKS
        names = "AutoAttack" if standard else " + ".join(map(metric_title, attacks))
        # The version's first word only repeats the attacks.
        version = protocol["attack_version"].partition(" ")[2]
        facts += [f"{protocol['norm']} {eps_text(protocol['eps'])}", f"{names} ({version})"]
    else:
        drawn = is_sequential(protocol["attack_version"])
        facts.append("clean only, sequential" if drawn else "clean only")
    if protocol["precision"] != "float32":
        facts.append(protocol["precision"])
    return [*facts, f"n = {protocol['n']:,}" + (", partial" if protocol["partial"] else "")]
