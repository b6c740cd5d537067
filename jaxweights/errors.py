"""The exception for mistakes that the user can correct."""


class UserError(Exception):
    """A mistake in input, flags, configs or files that the user can correct.

    The message is one paragraph that says what is wrong, where, and what to do; a command to copy stands behind it,
    on a line of its own that is indented by four spaces. The launch programs print it without a traceback and exit with
    status 1; library callers may catch it like any other exception.

    Attributes:
      process: number of the process of a job in which it was raised first, where all processes raise it; else None.
    """

    process: int | None = None


class Diverged(UserError):
    """A training whose loss is not finite."""
