"""The one exception that stands for the user's mistake."""


class UserError(Exception):
    """What is wrong, what was found, the remedy: shown as it is, with no traceback, and exit code 2."""
