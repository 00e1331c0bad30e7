"""BibTeX for tables: the papers of their methods, and an entry for each group of our runs."""

from __future__ import annotations

from collections import Counter

from harness.registry import METHODS
from leaderboards.render.escape import latex
from leaderboards.table import Row, Table

NOTHING = "% these rows have no known paper and no run of ours"


def to_bibtex(*tables: Table) -> str:
    """Return the entries, each once: papers first, then runs."""
    rows = [(table, row) for table in tables for row in table.rows]
    names = dict.fromkeys(row.facts.get("method", "") for _, row in rows)
    papers = [METHODS.get(name).card.bibtex for name in names if name in METHODS]
    found = dict.fromkeys(
        (row.run_ids[0], _facts(table, row)) for table, row in rows if row.run_ids
    )
    runs, seen = [], Counter[str]()
    for run_id, facts in found:
        seen[run_id] += 1  # rows may share their first run
        number = f"-{seen[run_id]}" if seen[run_id] > 1 else ""
        runs.append(f"@misc{{run-{run_id}{number},\n{facts}")
    entries = dict.fromkeys(entry.strip() for entry in (*papers, *runs) if entry)
    return "\n\n".join(entries or [NOTHING]) + "\n"


def _facts(table: Table, row: Row) -> str:
    """Return the entry of a row's runs without its key; it has their ids, to find them by."""
    numbers = [number for number in row.numbers if number.run_ids]
    facts = [row.facts.get(name, "") for name in ("dataset", "arch")]
    title = ", ".join(filter(None, (table.name_of(row), *facts)))
    shown = list(dict.fromkeys(number.note for number in numbers if number.note))
    return "\n".join(
        (
            f"  title = {{{{{latex(title)}}}}},",
            "  howpublished = {{Runs of DivergenceBench}},",
            f"  note = {{{{{latex('; '.join(shown[:1]))}}}}},",
            f"  key = {{{{{latex(' '.join(row.run_ids))}}}}}",
            "}",
        )
    )
