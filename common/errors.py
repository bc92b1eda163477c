"""What the user can put right: one exception for bad input, also where a library is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. The message is one clear line: what is wrong, where, what was expected, what to do.

    The commands print it without a traceback and exit with status 2.
    """


@contextmanager
def needing(purpose: str, libraries: str) -> Iterator[None]:
    """Around imports that not everybody needs: where one is missing, a line says what to install."""
    try:
        yield
    except ImportError as error:
        missing = error.name or libraries
        raise UserError(f"{purpose} needs {missing}, which is not installed: pip install {libraries}") from error
