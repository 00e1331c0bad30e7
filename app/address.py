"""Checks of a page's URL parameters before widgets use them.

URLs are typed, truncated and mangled by people and programs: every value is either valid or quoted
in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

# No setting has more digits; `str.isdigit` would accept superscripts, which `int` does not.
_NUMBER = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)
MAX_QUOTED = 60


def wrong_choice(given: Iterable[str], options: Container[str]) -> str | None:
    """The first value that is not one of the options."""
    return next((value for value in given if value not in options), None)


def wrong_number(given: Iterable[str], low: float, high: float) -> str | None:
    """The first value that is not a number in [low, high], nor an integer if both bounds are."""
    whole = isinstance(low, int) and isinstance(high, int)

    def fits(value: str) -> bool:
        if not _NUMBER.fullmatch(value) or (whole and "." in value):
            return False
        return low <= float(value) <= high

    return next((value for value in given if not fits(value)), None)


def quoted(value: str) -> str:
    """Quote a value for a message: on one line, cut to ``MAX_QUOTED`` characters."""
    printable = "".join(sign if sign.isprintable() else "?" for sign in value[:MAX_QUOTED])
    return f"“{printable}{'...' if len(value) > MAX_QUOTED else ''}”"
