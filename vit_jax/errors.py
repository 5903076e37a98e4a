"""The two exceptions that end a command with one message and no traceback."""


class UserError(Exception):
    """The user's mistake: what is wrong, what was found, the remedy. Exit code 2."""


class RunError(Exception):
    """What was asked is right, but can't be done here and now: a full disk, a lost peer, a loss that isn't finite.

    What was saved before is intact. Exit code 1.
    """
