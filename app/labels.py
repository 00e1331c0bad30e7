"""The names that several pages use for statuses, attack stages, protocols and runs."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from app.components import records
from harness.config import STANDARD_ATTACKS, eps_text
from leaderboards.protocols import METRIC_TITLES, attacks_of

STATUS_WORDS = {
    "started": "running",
    "success": "done",
    "error": "failed",
    "cancelled": "stopped",
}
SELECTION_WORDS = {
    "last": "last epoch",
    "best-on-val": "best epoch on validation",
    "best-on-test": "best epoch on test",
}

# Pages, unlike tables, have room for AutoAttack's full name.
STAGE_TITLES = {**METRIC_TITLES, "aa": "AutoAttack", "robust": "Robust"}


def stage_title(name: str) -> str:
    """The name of an attack stage or accuracy as papers write it."""
    return STAGE_TITLES.get(name, name)


def protocol_text(facts: Mapping[str, Any]) -> str:
    """A protocol in a few words: threat model, attacks, precision, images, whether partial.

    Empty if nothing was evaluated.
    """
    if not known(facts.get("n")):
        return ""
    n = f"n = {int(facts['n']):,}" + (", partial" if known(facts.get("partial")) else "")
    return ", ".join([*attack_texts(facts), n])


def protocol_names(evaluations: pd.DataFrame) -> list[str]:
    """The protocol, scale and unusual selection; equal for those that may be ranked together.

    Args:
        evaluations: rows with ``dataset``, ``scale``, ``like_key``, ``best_on_test`` and the
            protocol, as ``queries.protocols`` has them. Different keys with the same text get the
            start of the key's hash, which newer runs do not change.
    """
    rows = records(evaluations)
    selected = f", {SELECTION_WORDS['best-on-test']}"
    names = [
        protocol_text(row)
        + ", small scale" * (row["scale"] == "small")
        + selected * known(row["best_on_test"])
        for row in rows
    ]
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row, name in zip(rows, names, strict=True):
        keys[row["dataset"], name].add(row["like_key"])
    return [
        name
        if len(keys[row["dataset"], name]) == 1
        else f"{name} ({hashlib.sha256(row['like_key'].encode()).hexdigest()[:6]})"
        for row, name in zip(rows, names, strict=True)
    ]


def attack_texts(facts: Mapping[str, Any]) -> list[str]:
    """Threat model, attacks, and their non-standard settings."""
    precision = facts.get("precision")
    unusual = [str(precision)] if known(precision) and precision != "float32" else []
    if not known(facts.get("attacks")):
        return ["clean only", *unusual]
    stages = attacks_of(facts)
    names = "AutoAttack" if stages == STANDARD_ATTACKS else " + ".join(map(stage_title, stages))
    # The version lists every departure from the standard budget after the package.
    version = facts.get("attack_version")
    unusual += str(version).split()[2:] if known(version) else []
    return [f"{facts['norm']} {eps_text(facts['eps'])}", names, *unusual]


def watched_images(config: Mapping[str, Any]) -> str:
    """The images on which a run's accuracy was measured after its epochs.

    Args:
        config: the run's configuration as JSON, empty if it was not trained here.
    """
    held_out = (config.get("data") or {}).get("val_size")
    selection = (config.get("training") or {}).get("selection") or {}
    # A run that selects its epoch on test images monitors these, even if it holds images out.
    on_test = selection.get("rule") == "best-on-test"
    return "held-out training images" if held_out and not on_test else "test images"


def known(value: Any) -> bool:
    """Whether a database column holds a value that is neither missing, empty nor false."""
    return value is not None and not pd.isna(value) and bool(value)


def run_title(run: Mapping[str, Any]) -> str:
    """A run in a list: method, dataset, architecture, seed and id."""
    seed = "" if pd.isna(run["seed"]) else f"seed {int(run['seed'])}"
    facts = [run["title"], run["dataset"], run["arch"], seed, run["run_id"]]
    return ", ".join(str(fact) for fact in facts if isinstance(fact, str) and fact)
