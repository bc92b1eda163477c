"""Files: written whole or not at all, and never outside the folder that they belong to."""

import errno
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MEGABYTES = 4000  # of a file that is read whole; COCO's largest has 500
RAISED = "MASKWORKS_MAX_MEGABYTES"  # where --max-megabytes is kept, for processes of loaders too


def read_bytes(path: Path, megabytes: float = MEGABYTES) -> bytes:
    """A file's content; of what could not be read to an end an OSError says so, as of what is not there."""
    require_bounded(path, megabytes)
    return path.read_bytes()


def read_text(path: Path, megabytes: float = MEGABYTES, errors: str = "strict") -> str:
    try:
        return read_bytes(path, megabytes).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise OSError(errno.EINVAL, f"no text in UTF-8: {error.reason} at byte {error.start}", str(path)) from error


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def require_bounded(path: Path, megabytes: float = MEGABYTES) -> None:
    """A regular file of bounded size: a pipe would be waited for, a device or a sparse file fill the memory."""
    try:
        status = path.stat()
    except ValueError as error:  # a zero byte, half a surrogate pair
        raise OSError(errno.EINVAL, "no name that a file can have", str(path)) from error
    most = max(megabytes, float(os.environ.get(RAISED) or 0))
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe or a device, no file", str(path))
    if status.st_size > most * 1e6:
        problem = f"{status.st_size:,} bytes; the limit is {most:g} million, --max-megabytes raises it"
        raise OSError(errno.EINVAL, problem, str(path))


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, and put it in its place once it is safely on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        with naming(path):
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error in writing to a file that is open names no file by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def leads_inside(path: Path, root: Path) -> bool:
    """Whether a path, its links followed, ends under a (resolved) folder."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long or with a zero byte
        return False


def user_cache() -> Path:
    """Where what can be made or fetched again is kept: MASKWORKS_CACHE, or the place that the system has for it."""
    if named := os.environ.get("MASKWORKS_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "maskworks"


def here_or_above(paths: Sequence[str]) -> list[str]:
    """`datasets/...`, also where only a folder above has it: commands are run from a package's folder too."""
    above = next((up for up in ("", "../", "../../") if Path(f"{up}datasets").is_dir()), "")
    return [above + path if path.startswith("datasets/") else path for path in paths]
