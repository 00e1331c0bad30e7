"""Text to show: counts, and text of files and of the user made safe."""

from __future__ import annotations

import re

# Control characters except tab and newline, line separators, changes of the reading direction, and
# lone surrogates, which cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs`` or ``1,000 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    r"""The text with an escape such as ``\x1b`` for each terminal control character."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def all_printable(value: object) -> object:
    """A JSON value with ``printable`` applied to all its text, including field names."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(name): all_printable(item) for name, item in value.items()}
    return [all_printable(item) for item in value] if isinstance(value, list) else value
