"""What the user can put right: one exception for bad input, and the errors of a computer that is full or locked."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # the disk, a limit, one's share of it

NO_MEMORY = ("t allocate memory", "not enough memory", "out of memory", "bad_alloc", "bad allocation")


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


def surroundings(error: Exception) -> str | None:
    """An error that isn't in the code but around it, as one line; None for any other."""
    if isinstance(error, OSError) and error.filename is not None:
        remedy = "free some space" if error.errno in FULL else "check the path and the rights to it"
        return f"{error.filename}: cannot be read or written ({error.strerror}); {remedy}, then go on with --resume"
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        where = f" ({str(error).splitlines()[0]:.200})" if str(error) else ""
        return f"there is not enough memory for it{where}; try smaller images, a smaller --batch-size or network"
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        reason = str(error).split(". ")[0].rstrip(".")
        return f"a loader worker died ({reason}), perhaps for want of memory; try fewer --workers, go on with --resume"
    return None
