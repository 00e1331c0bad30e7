"""Find evaluations that measure the same quantity, and differences between two runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from harness.config import RunConfig, flat
from harness.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Facts = Mapping[str, Any]
T = TypeVar("T")

# Protocols that differ in one of these measure different quantities.
PROTOCOL_FIELDS = ("attacks", "norm", "eps", "attack_version", "precision")


@dataclass(frozen=True)
class Evaluated:
    """One run evaluated under one protocol.

    Attributes:
        run: content of ``run.json``; ``config`` is the whole configuration, None for a loaded
            model.
        evaluation_id: id of the evaluation.
        protocol: the ``protocol`` field of ``evaluation.json``.
        verdicts: one row per image; ``index``, ``label`` and ``broken_by`` are used.
    """

    run: Facts
    evaluation_id: str
    protocol: Facts
    verdicts: pd.DataFrame

    @property
    def name(self) -> str:
        """The method or source, and the run."""
        title = self.run.get("method_title") or self.run.get("method")
        title = title or (self.run.get("source") or {}).get("source")
        run_id = str(self.run["run_id"])
        return f"{title} ({run_id})" if title else run_id


def differences(
    a: Facts, b: Facts, names: Iterable[str] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Return the entries in which two mappings differ: name to both values, None if missing.

    Args:
        a: one mapping, such as the ``settings`` of a run, or a protocol.
        b: the other.
        names: the entries to compare; by default all.
    """
    names = dict.fromkeys([*a, *b]) if names is None else names
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def protocol_key(protocol: Facts) -> tuple[Any, ...]:
    """Return a key that is equal for protocols measuring the same quantity on the same test set.

    Without attacks the threat model does not matter, but whether the images were drawn at random
    does: such an evaluation may stop early.
    """
    fields = PROTOCOL_FIELDS if protocol["attacks"] else ()
    drawn = is_sequential(protocol["attack_version"])
    return protocol["data_sha256"], drawn, *(str(protocol[name]) for name in fields)


def is_sequential(attack_version: str) -> bool:
    """Whether the evaluation drew images in random order and could stop early."""
    return attack_version.endswith(" sequential")


def by_one_protocol(
    several: Sequence[Sequence[T]], protocol: Callable[[T], Facts]
) -> list[T] | None:
    """Pick one evaluation of each run, all by one protocol; None if they have none in common.

    Among the protocols that all runs share, those with attacks come first, then the first run's
    newest; among a run's evaluations by it, the one with the most images.

    Args:
        several: the evaluations of each run, newest first.
        protocol: returns an evaluation's protocol, with ``n``.
    """

    def key(evaluation: T) -> tuple[Any, ...]:
        return protocol_key(protocol(evaluation))

    by_protocol: list[dict[tuple[Any, ...], T]] = []
    for found in several:
        smallest_first = sorted(reversed(found), key=lambda each: int(protocol(each)["n"]))
        by_protocol.append({key(each): each for each in smallest_first})
    common = [
        each
        for each in dict.fromkeys(map(key, several[0]))
        if all(each in table for table in by_protocol)
    ]
    if not common:
        return None
    # With attacks, the key also holds the threat model and is longer.
    best = max(common, key=len)
    return [table[best] for table in by_protocol]


def quoted_protocol(evaluated: Evaluated) -> dict[str, Any]:
    """Return the part of the protocol that must be quoted with every number."""
    return {name: evaluated.protocol[name] for name in PROTOCOL_FIELDS}


def check_protocols(several: Sequence[Evaluated]) -> None:
    """Raise a UserError naming the differences unless all have the same ``protocol_key``."""
    first = several[0]
    for other in several[1:]:
        if protocol_key(first.protocol) == protocol_key(other.protocol):
            continue
        found = differences(first.protocol, other.protocol, ("data_sha256", *PROTOCOL_FIELDS))
        names = f"{first.name} and {other.name}"
        if "data_sha256" in found:
            raise UserError(
                f"{names} were evaluated on different test sets (their images' hashes differ): "
                "evaluate both on the same one"
            )
        what = "; ".join(f"{name} {ours} and {theirs}" for name, (ours, theirs) in found.items())
        raise UserError(
            f"{names} were evaluated by different protocols ({what}), so their difference would "
            "say nothing about the models: evaluate both by one protocol"
        )


def check_order(several: Sequence[Evaluated], shared: pd.Index[int]) -> None:
    """Raise a UserError unless each drew the shared images [M] first, in the same order."""
    for each in several:
        if each.verdicts["index"][: len(shared)].tolist() != shared.tolist():
            raise UserError(
                f"{several[0].name} and {each.name} drew images in different orders: evaluate "
                "both with the same evaluation.seed"
            )


def settings(run: Facts) -> dict[str, Any]:
    """Return the settings that determine a run's model: dotted path to value."""
    config = run.get("config")
    if not config:
        source = run.get("source") or {}
        return {"source": source.get("source"), "arch": run.get("arch")}
    try:
        return flat(RunConfig.model_validate(config).identity_payload(complete=True))
    except ValidationError:  # the run is from a release with other settings
        return flat(config)
