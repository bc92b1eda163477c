"""The one exception that means: the user can put this right."""


class UserError(Exception):
    """Bad input. The message is one clear line: what is wrong, where, what was expected, what to do.

    The commands print it without a traceback and exit with status 2.
    """
