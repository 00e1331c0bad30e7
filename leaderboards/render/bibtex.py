"""BibTeX for a table: the papers of its methods, and an entry for each group of our runs."""

from __future__ import annotations

from collections import Counter

from harness.registry import METHODS
from leaderboards.render.escape import latex
from leaderboards.table import Row, Table

NOTHING = "% these rows have no known paper and no run of ours"


def to_bibtex(table: Table) -> str:
    """Return the entries, each once: papers first, then runs."""
    names = dict.fromkeys(row.facts.get("method", "") for row in table.rows)
    papers = [METHODS.get(name).card.bibtex for name in names if name in METHODS]
    runs, seen = [], Counter[str]()
    for row in table.rows:
        if row.run_ids:
            # Rows may share their first run.
            seen[key := f"run-{row.run_ids[0]}"] += 1
            runs.append(_run_entry(table, row, key + f"-{seen[key]}" * (seen[key] > 1)))
    entries = dict.fromkeys(entry.strip() for entry in (*papers, *runs) if entry)
    return "\n\n".join(entries or [NOTHING]) + "\n"


def _run_entry(table: Table, row: Row, key: str) -> str:
    """Return the entry of a row's runs, with their ids, so that others can find them."""
    numbers = [number for number in row.numbers if number.run_ids]
    facts = [row.facts.get(name, "") for name in ("dataset", "arch")]
    title = ", ".join(filter(None, (table.name_of(row), *facts)))
    shown = list(dict.fromkeys(number.note for number in numbers if number.note))
    return "\n".join(
        (
            f"@misc{{{key},",
            f"  title = {{{{{latex(title)}}}}},",
            "  howpublished = {{Runs of DivergenceBench}},",
            f"  note = {{{{{latex('; '.join(shown[:1]))}}}}},",
            f"  key = {{{{{latex(' '.join(row.run_ids))}}}}}",
            "}",
        )
    )
