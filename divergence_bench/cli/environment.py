"""Handling of the environment: output encodings, unusable paths and empty option values."""

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
    """Prevent encoding errors: files and pipes get UTF-8, a terminal what it can show.

    By default a pipe has the locale's encoding, which may lack characters used in tables.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")


@contextmanager
def explained_paths() -> Iterator[None]:
    """Turn system errors about a path, such as a name that is too long, into a ``UserError``.

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
        # Before Python 3.13, a path that cannot be resolved raises RuntimeError.
        if "Symlink loop" not in str(error):
            raise
        raise UserError(f"cannot use a path ({error}): check it") from error


def refuse_empty_values(arguments: Sequence[str]) -> None:
    """Refuse empty values, such as an unset shell variable's; an empty path would mean ``.``.

    Raises:
        UserError: an option has an empty value and is not in ``MAY_BE_EMPTY``.
    """
    for name, value in pairwise([*arguments, "--"]):
        option, _, attached = name.partition("=")
        empty = not attached if "=" in name else value == ""
        if option.startswith("--") and empty and option not in MAY_BE_EMPTY:
            raise UserError(f"{option} is empty: give it a value, or leave it out")


def _short(path: Any) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
