"""The first line of another library's error, which messages quote."""

import pytest

from harness.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\nb"), "ValueError: a"),
        (RuntimeError("\n  no compiler\nmore"), "RuntimeError: no compiler"),
        (ValueError("a: "), "ValueError: a"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_first_line_is_the_first_with_text(error: Exception, line: str) -> None:
    assert first_line(error) == line
