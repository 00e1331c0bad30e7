"""Random damage to files, which must lead to a correct result or a one-sentence error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from harness.errors import UserError

# For a longer search, FUZZ=10 tries ten times as many inputs.
FACTOR = float(os.environ.get("FUZZ", "1"))
# A command that has not ended after this time counts as hanging.
HANGS_S = 120.0
TRACEBACK = "Traceback (most recent call last)"


def tries(count: int, *, shrink: bool = True) -> Any:
    """Run a test with ``count`` random inputs; ``shrink`` reduces an input that fails."""
    return settings(
        phases=[phase for phase in Phase if shrink or phase is not Phase.shrink],
        max_examples=max(1, round(count * FACTOR)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def outcome(action: Callable[[], Any]) -> tuple[str, Any]:
    """``("read", result)``, or ``("refused", message)`` with a message of one line.

    Any exception other than a UserError propagates.
    """
    try:
        return "read", action()
    except UserError as error:
        message = str(error)
        assert message.strip(), "an error without a message"
        assert "\n" not in message, message
        return "refused", message


def assert_ends_well(ended: dict[str, Any]) -> str:
    """Assert that a command ended in time, without a traceback, with status 0, 1 or 2."""
    output = ended["output"]
    assert ended["seconds"] < HANGS_S, f"it hangs: {output}"
    assert TRACEBACK not in output, output
    assert ended["code"] in (0, 1, 2), (ended["code"], output)
    if ended["code"] == 2:
        assert "error: " in output.lower() or output.startswith("Usage: "), output
    return f"status {ended['code']}"


class Damaged(bytes):
    """Bytes whose ``repr`` lists the changes made to them."""

    changes: list[str]

    def __repr__(self) -> str:
        return f"<{len(self)} bytes after {', '.join(self.changes)}>"


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> Damaged:
    """The bytes with one to four changes such as a damaged file may have."""
    data, changes = bytearray(whole), []
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from((1, 1, 2, 4, 16, 256, len(data))))
        kind = draw(st.sampled_from(("flip", "write", "zero", "cut", "insert", "repeat", "end")))
        part = bytes(data[at : at + length])
        if kind == "flip" and part:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "write":
            written = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(written)] = written
        elif kind == "zero":
            data[at : at + length] = bytes(len(part))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "repeat":
            data[at:at] = part
        elif kind == "end":
            del data[at:]
        changes.append(f"{kind} {length} at {at}")
    found = Damaged(data)
    found.changes = changes
    return found


JUNK = st.sampled_from(
    (None, True, False, 0, -1, 2**31, 2**63, 10**400, 0.5, 1e308, -1e308, float("nan"),
     float("inf"), "", "x", "../..", "[/red]", "\x1b[31m", "é\u202e", "NaN", "1/0", "a" * 300,
     [], {}, [None], {"": {}}, [[]], "2026-13-45")
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one part replaced, dropped or added."""
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.sampled_from(("deeper", "deeper", "deeper", "replace", "drop", "add")))
        if kind == "deeper":
            return {**value, key: draw(changed(value[key]))}
        if kind == "replace":
            return {**value, key: draw(JUNK)}
        if kind == "add":
            return {**value, draw(st.sampled_from(("", "x", "eps", "__class__"))): draw(JUNK)}
        return {name: part for name, part in value.items() if name != key}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
    return draw(JUNK)


def damaged_text_file(whole: bytes) -> st.SearchStrategy[bytes]:
    """A JSON or JSON Lines file, damaged in its bytes or in its values."""
    lines = [json.loads(line) for line in _documents(whole)]
    values = st.integers(0, len(lines) - 1).flatmap(
        lambda at: changed(lines[at]).map(
            lambda value: "\n".join(
                json.dumps(each) for each in [*lines[:at], value, *lines[at + 1 :]]
            ).encode()
        )
    )
    return st.one_of(values, values, damaged(whole))


def _documents(whole: bytes) -> list[str]:
    text = whole.decode()
    try:
        json.loads(text)
    except ValueError:
        return text.splitlines()
    return [text]
