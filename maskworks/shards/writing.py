"""A COCO-format data set as shards: plain tars of its pictures in the files' order, an index, the annotation files."""

import sqlite3
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from common.data.annotation_checks import check_files
from common.data.annotation_files import ImageEntry
from common.data.coco import stop_at_fatal
from common.data.shards import INDEX
from common.errors import UserError
from common.files import digest_of, read_bytes

TABLES = """
CREATE TABLE shards (number INTEGER PRIMARY KEY, name TEXT, size INTEGER, digest TEXT);
CREATE TABLE pictures (name TEXT PRIMARY KEY, folder TEXT, shard INTEGER, first INTEGER, size INTEGER) WITHOUT ROWID;
CREATE INDEX by_folder ON pictures (folder);
"""


def write(images: Path, annotations: Sequence[Path], target: str, megabytes: float) -> tuple[int, int]:
    """The pictures that annotation files name, each once -> how many, in how many tars; the index comes last."""
    import fsspec

    names = list(dict.fromkeys(name for file in annotations for name in pictures_of(images, file)))
    system, folder = fsspec.core.url_to_fs(target)
    if system.exists(f"{folder}/{INDEX}"):
        raise UserError(f"{target}: there are shards already; name another folder, or remove them")
    if len({file.name for file in annotations}) < len(annotations):
        raise UserError(f"two annotation files are called {annotations[0].name}, and {target} holds one of a name")
    system.makedirs(folder, exist_ok=True)
    with TemporaryDirectory() as drafts:
        index = Path(drafts, INDEX)
        connection = sqlite3.connect(index)
        connection.executescript(TABLES)
        number = 0
        for number, group in enumerate(grouped(images, names, megabytes * 1e6), start=1):
            tar = Path(drafts, f"{number:05}.tar")
            pack(tar, images, group)
            enter(connection, number, tar)
            system.put_file(str(tar), f"{folder}/{tar.name}")
            tar.unlink()
        connection.commit()
        connection.close()
        for file in [*annotations, index]:
            system.put_file(str(file), f"{folder}/{file.name}")
    return len(names), number


class Listed(msgspec.Struct):
    images: list[ImageEntry]  # whatever kind of annotations a file has


def pictures_of(images: Path, file: Path) -> list[str]:
    """The names in an annotation file; refused where one is missing or leads out of the folder."""
    try:
        listed = msgspec.json.decode(read_bytes(file).removeprefix(b"\xef\xbb\xbf"), type=Listed).images
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{file}: cannot be read ({error}); expected a COCO-format file with images") from error
    names = [image.file_name for image in listed]
    stop_at_fatal(file, check_files(images, [image.id for image in listed], names))
    return names


def grouped(images: Path, names: Sequence[str], most: float) -> Iterator[list[str]]:
    """Neighbours that together have so many bytes, and at least one picture."""
    group: list[str] = []
    filled = 0
    for name in names:
        size = (images / name).stat().st_size
        if group and filled + size > most:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += size
    if group:
        yield group


def pack(tar: Path, images: Path, names: Sequence[str]) -> None:
    """The same pictures give the same bytes: of the files, only names and contents are kept."""
    with tarfile.open(tar, "w") as archive:
        for name in names:
            with (images / name).open("rb") as file:
                entry = tarfile.TarInfo(name)
                entry.size = (images / name).stat().st_size
                archive.addfile(entry, file)


def enter(connection: Any, number: int, tar: Path) -> None:
    """What is in a tar, as it is read back."""
    shard = (number, tar.name, tar.stat().st_size, digest_of(tar))
    connection.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", shard)
    with tarfile.open(tar) as archive:
        rows = [(e.name, e.name.rpartition("/")[0], number, e.offset_data, e.size) for e in archive]
    connection.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", rows)
