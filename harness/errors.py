"""Errors that are the user's to mend."""


class UserError(Exception):
    """A mistake in what the user gave: one sentence that says what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with status 2.
    """
