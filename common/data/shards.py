"""Pictures in tars, each read at the place that the index in their folder names, here or from storage elsewhere.

maskworks/shards writes and fetches both. A folder without an index holds loose files.
"""

import os
import re
import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import user_cache

INDEX, ORIGIN = "shards.sqlite", "shards.url"  # where in which tar; where the tars are that aren't here
TAR = re.compile(r"\d{5,}\.tar")  # nothing else is opened, whatever an index names
PLACE = "SELECT s.name, p.first, p.size, s.size FROM pictures p JOIN shards s ON s.number = p.shard WHERE p.name = ?"


def names(folder: Path, within: str) -> frozenset[str]:
    """Of the pictures that the tars hold in a subfolder, without its name; the folder may be within the shards' own."""
    place, index = folder / within, folder_of(folder / "any")
    inside = place.relative_to(index).as_posix() if index and place != index else ""
    rows = asked(index, "SELECT name FROM pictures WHERE folder = ?", inside) if index else []
    return frozenset(str(name).rpartition("/")[2] for (name,) in rows)


def folder_of(path: Path) -> Path | None:
    """The folder with the index that a path lies in."""
    return next((each for each in path.parents if (each / INDEX).is_file()), None)


def origin_of(folder: Path | None) -> str:
    """The URL where the tars are that aren't here; of folders that we made in the cache alone, whatever others hold."""
    far = folder is not None and folder.parent == user_cache() / "shards" and (folder / ORIGIN).is_file()
    return (folder / ORIGIN).read_text(encoding="utf-8") if far and folder else ""


def is_far(path: Path) -> bool:
    """Whether a picture may have to come from elsewhere."""
    return bool(origin_of(folder_of(path)))


def read(path: Path, most: int) -> bytes | None:
    """The picture that would be at a path; None where no index names it."""
    folder = folder_of(path)
    name = path.relative_to(folder).as_posix() if folder else ""
    if not folder or not (found := asked(folder, PLACE, name)):
        return None
    tar, first, size, whole = found[0]
    numbers = all(type(each) is int for each in (first, size, whole))  # SQLite holds anything in any column
    if not (numbers and TAR.fullmatch(str(tar)) and 0 <= first <= first + size <= whole):
        raise UserError(f"{folder / INDEX}: where it says that {name} is, is no part of a tar; write the shards again")
    if size > most:
        raise UserError(f"{path}: {size} bytes, the limit is {most}; cut it into parts or raise the limit")
    here, origin = folder / tar, origin_of(folder)
    place = here if here.exists() or not origin else f"{origin}/{tar}"
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
    connection = sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('pictures', 'shards')")
    if len(found.fetchall()) < 2:  # views of these names could compute for ever
        raise sqlite3.DatabaseError("its tables are missing")
    return connection
