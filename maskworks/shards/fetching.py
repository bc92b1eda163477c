"""python -m maskworks.shards.fetching FOLDER: copy a folder's tars to this machine, as far as there is room for them.

Which picture is read next is as good as random, so nothing is ever thrown out for another: what has no room is read
from storage, picture by picture. One process of a machine copies at a time.
"""

import os
import sqlite3
import sys
from pathlib import Path

from filelock import FileLock

from common.data.shards import INDEX, ORIGIN, TAR
from common.errors import UserError
from common.files import digest_of
from maskworks.command_line import program

ROOM = "MASKWORKS_SHARDS_GIGABYTES"  # of all tars in the cache together


def gigabytes() -> float:
    try:
        return float(os.environ.get(ROOM, "50"))
    except ValueError as error:
        raise UserError(f"{ROOM}={os.environ[ROOM]}: expected a number of gigabytes, 0 to copy nothing") from error


def fetch(folder: Path, starter: int = 0) -> None:
    """Copy what is missing, until there is no room or the process that started this one has ended."""
    import fsspec

    origin, cache = (folder / ORIGIN).read_text(encoding="utf-8"), folder.parent
    with sqlite3.connect(folder / INDEX) as index:
        shards = index.execute("SELECT name, size, digest FROM shards ORDER BY number").fetchall()
    with FileLock(cache / ".fetching.lock"):
        for draft in cache.glob("*/*.unfinished"):  # of a process that was killed
            draft.unlink()
        for name, size, digest in shards:
            if starter and os.getppid() != starter:
                return
            if not TAR.fullmatch(str(name)):
                raise UserError(f"{origin}/{INDEX}: {name!r:.80} is no name of a tar; write the shards again")
            if (folder / name).exists():
                continue
            if sum(tar.stat().st_size for tar in cache.glob("*/*.tar")) + size > gigabytes() * 1e9:
                print(f"{origin}: from {name} on, pictures are read there; {ROOM}={gigabytes():g} is full", flush=True)
                return
            draft = folder / f".{name}.unfinished"
            system, path = fsspec.core.url_to_fs(f"{origin}/{name}")
            system.get_file(path, str(draft))
            if draft.stat().st_size != size or digest_of(draft) != digest:
                raise UserError(f"{origin}/{name}: torn, or not its index's; write or copy it again")
            draft.replace(folder / name)


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        fetch(folder, os.getppid())
    except Exception as error:  # each storage has errors of its own; who reads the pictures goes on, or says so too
        print(f"{folder}: its shards are not copied ({error}); pictures are read from where they lie", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
