"""What stands around every command: its errors are lines, with an exit status, and flags that any of them takes."""

import errno
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable

import torch.distributed as dist

from common.errors import UserError
from common.files import RAISED
from maskworks.memory import keep_freed_memory

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # the disk, a limit, one's share of it
NO_MEMORY = ("t allocate memory", "not enough memory", "out of memory", "bad_alloc", "bad allocation")


def run(main: Callable[[], object]) -> None:
    """Run a command; what goes wrong is one line: status 2 for a user's mistake, a full disk and the like, else 70."""
    keep_freed_memory()
    wordy = "--traceback" in sys.argv
    sys.argv[:] = [word for word in sys.argv if word != "--traceback"]
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        raise_limit()
        main()
    except Exception as error:
        line = str(error) if isinstance(error, UserError) else surroundings(error)
        if wordy:
            traceback.print_exc()
        else:
            said = unforeseen(error) if line is None else line
            print(
                "error:", re.sub(r"\n(?!  )", " ", said), file=sys.stderr
            )  # names may hold breaks, and lists have some
        sys.exit(70 if line is None else 2)
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


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


def raise_limit() -> None:
    """--max-megabytes, anywhere on a command line: what larger files are allowed to be read, in other processes too."""
    place = next((at for at, word in enumerate(sys.argv) if word.startswith("--max-megabytes")), None)
    if place is not None:
        word, equals, value = sys.argv.pop(place).partition("=")
        value = value if equals else "".join(sys.argv[place : place + 1])
        del sys.argv[place : place + (not equals)]
        if word != "--max-megabytes" or not value.isdecimal():
            raise UserError(f"{word} {value}: expected --max-megabytes and a whole number, a file's largest size")
        os.environ[RAISED] = value


def unforeseen(error: Exception) -> str:
    """A fault of ours in a line; the traceback goes into a file that only its owner can read."""
    what = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    try:
        handle, path = tempfile.mkstemp(".txt", "maskworks-")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError as full:
        return f"{what}; the traceback could not be kept ({full.strerror}): --traceback prints it"
    return f"{what}; the traceback is in {path}, and --traceback prints it"
