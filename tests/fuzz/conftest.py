"""How often each target is tried, and what is counted for the end of the report."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

# Target to how many of its inputs were read and how many were refused.
TALLY: defaultdict[str, Counter[str]] = defaultdict(Counter)


@pytest.fixture(scope="session")
def tally() -> defaultdict[str, Counter[str]]:
    return TALLY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY:
        terminalreporter.section("inputs tried")
    for target, counts in TALLY.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        terminalreporter.line(f"{target}: {sum(counts.values())} ({kinds})")
