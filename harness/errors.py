"""Errors caused by the user's input."""


class UserError(Exception):
    """A mistake in the user's input: one sentence that says what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """The class of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0].rstrip(": ")
