"""Pictures in tars, each read at the place that the index in their folder names, here or from storage elsewhere.

maskworks/shards writes and fetches both. A folder without an index holds loose files.
"""

import os
import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError

INDEX, ORIGIN = "shards.sqlite", "shards.url"  # where in which tar; where the tars are that aren't here
PLACE = "SELECT s.name, p.first, p.size, s.size FROM pictures p JOIN shards s ON s.number = p.shard WHERE p.name = ?"


def names(folder: Path, within: str) -> frozenset[str]:
    """Of the pictures that the tars hold in a subfolder, without its name."""
    rows = asked(folder, "SELECT name FROM pictures WHERE folder = ?", within) if (folder / INDEX).is_file() else []
    return frozenset(name.rpartition("/")[2] for (name,) in rows)


def folder_of(path: Path) -> Path | None:
    """The folder with the index that a path lies in."""
    return next((each for each in path.parents if (each / INDEX).is_file()), None)


def is_far(path: Path) -> bool:
    """Whether a picture may have to come from elsewhere."""
    folder = folder_of(path)
    return folder is not None and (folder / ORIGIN).exists()


def read(path: Path, most: int) -> bytes | None:
    """The picture that would be at a path; None where no index names it."""
    folder = folder_of(path)
    name = path.relative_to(folder).as_posix() if folder else ""
    if not folder or not (found := asked(folder, PLACE, name)):
        return None
    tar, first, size, whole = found[0]
    if size > most:
        raise UserError(f"{path}: {size} bytes, the limit is {most}; cut it into parts or raise the limit")
    here, origin = folder / tar, folder / ORIGIN
    place = here if here.exists() or not origin.exists() else f"{origin.read_text(encoding='utf-8')}/{tar}"
    try:
        content = read_part(place, first, size)
    except Exception as error:  # each storage has errors of its own
        raise UserError(f"{place}: cannot be read ({error}), and holds {name}; write or copy it again") from error
    if len(content) < size or (place == here and here.stat().st_size != whole):
        raise UserError(f"{place}: torn, or not its index's: it should hold {name}; write or copy it again")
    return content


def read_part(place: Path | str, first: int, size: int) -> bytes:
    """Of a file here or at a URL."""
    if isinstance(place, Path):
        with place.open("rb", buffering=0) as file:
            file.seek(first)
            return file.read(size)
    import fsspec

    system, path = fsspec.core.url_to_fs(place)
    content: bytes = system.cat_file(path, first, first + size)
    return content


def asked(folder: Path, question: str, value: str) -> list[Any]:
    index = folder / INDEX
    try:
        return _opened(index, os.getpid(), index.stat().st_mtime_ns).execute(question, (value,)).fetchall()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{index}: no index of shards ({error}); write the shards again") from error


@lru_cache(maxsize=16)
def _opened(index: Path, process: int, changed: int) -> sqlite3.Connection:
    """Once in each process: a connection doesn't outlive a fork."""
    return sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
