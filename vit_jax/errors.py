"""The exceptions that end a command with one message and no traceback."""


class UserError(Exception):
    """The user's mistake: what is wrong, what was found, the remedy. Exit code 2."""


class RunError(Exception):
    """What was asked is right, but can't be done here and now: a full disk, a lost peer, a loss that isn't finite.

    What was saved before is intact. Exit code 1.
    """


def of_the_system(error: OSError) -> str:
    """What is said of a full disk or a file that others own: its name and the reason say all."""
    return f"{error}; what was saved before is intact"
