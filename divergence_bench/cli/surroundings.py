"""What the command line makes of its surroundings: encodings, paths that cannot be used."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from harness.errors import UserError

MAY_BE_EMPTY = ("--attacks", "--eps", "--set")


def open_streams() -> None:
    """Let output fail for no character: a file or a pipe gets UTF-8, a terminal what it can show.

    A pipe's encoding is otherwise that of the locale, which may lack signs that tables have.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")


@contextmanager
def explained_paths() -> Iterator[None]:
    """Turn the system's refusal of a path, such as a name too long, into a UserError.

    Raises:
        UserError: a path inside cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"cannot use {_short(error.filename)} ({reason}): check the path"
        ) from error
    except RuntimeError as error:
        # Before Python 3.13 a path that cannot be resolved is of this class.
        if "Symlink loop" not in str(error):
            raise
        raise UserError(f"cannot use a path ({error}): check it") from error


def refuse_empty_values(arguments: Sequence[str]) -> None:
    """Refuse ``--results ""``, as of an unset shell variable: Python takes an empty path for ``.``.

    Raises:
        UserError: an option has an empty value, and is none whose verb says what that means.
    """
    for name, value in pairwise([*arguments, "--"]):
        option, _, attached = name.partition("=")
        empty = not attached if "=" in name else value == ""
        if option.startswith("--") and empty and option not in MAY_BE_EMPTY:
            raise UserError(f"{option} is empty: give it a value, or leave it out")


def _short(path: Any) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
