"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in input, flags, configs or files that the user can mend.

    The message is one paragraph that says what is wrong, where, and what to do. The launch programs print it without
    a traceback and exit with status 1; library callers may catch it like any other exception.
    """
