"""Files: written whole or not at all, and never outside the folder that they belong to."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


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
