"""Text from files and from the user, made safe to show."""

from __future__ import annotations

import re

# Control characters but tab and newline, line separators, reversals of the reading direction, and
# halves of surrogate pairs, which no encoding has.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with an escape such as ``\x1b`` for each character that would steer a terminal."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def all_printable(value: object) -> object:
    """A JSON value whose texts, names of fields included, are ``printable``."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(name): all_printable(item) for name, item in value.items()}
    return [all_printable(item) for item in value] if isinstance(value, list) else value
