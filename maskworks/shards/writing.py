"""A COCO-format data set as shards: plain tars of its pictures in the files' order, an index, the annotation files."""

import sqlite3
import tarfile
from collections.abc import Iterator, Mapping, Sequence
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

    pictures: dict[str, Path] = {}
    for file in annotations:
        pictures |= pictures_of(images, file)
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
        for number, group in enumerate(grouped(pictures, megabytes * 1e6), start=1):
            tar = Path(drafts, f"{number:05}.tar")
            pack(tar, group)
            enter(connection, number, tar)
            system.put_file(str(tar), f"{folder}/{tar.name}")
            tar.unlink()
        connection.commit()
        connection.close()
        for file in [*annotations, index]:
            system.put_file(str(file), f"{folder}/{file.name}")
    return len(pictures), number


class Listed(msgspec.Struct):
    images: list[ImageEntry]  # whatever kind of annotations a file has


class Labels(msgspec.Struct):
    image_id: int
    file_name: str  # a panoptic PNG's; in PSG's own files the picture's
    pan_seg_file_name: str = ""


class Panoptic(msgspec.Struct):
    annotations: list[Labels] = []
    data: list[Labels] = []  # PSG's own
    relations_categories: list[Any] | None = None  # PSG's, prepared


def pictures_of(images: Path, file: Path) -> dict[str, Path]:
    """Names in the tars -> files, of an annotation file; refused where one is missing or leads out of its folder."""
    try:
        content = read_bytes(file).removeprefix(b"\xef\xbb\xbf")
        segments = b'"segments_info"' in content  # else the annotations are many, and name nothing
        panoptic = msgspec.json.decode(content, type=Panoptic, strict=False) if segments else Panoptic()
        listed = [] if panoptic.data else msgspec.json.decode(content, type=Listed).images
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{file}: cannot be read ({error}); expected a COCO-format file with images") from error
    names = [(each.id, each.file_name) for each in listed]
    names += [(each.image_id, each.file_name) for each in panoptic.data]
    annotated = panoptic.annotations + panoptic.data
    labels = [(each.image_id, each.pan_seg_file_name or each.file_name) for each in annotated]
    if panoptic.data or panoptic.relations_categories is not None:  # scene graphs: all names start from one folder
        names, labels = names + labels, []
    pictures: dict[str, Path] = {}
    for folder, within, some in ((images, "", names), (file.with_suffix(""), f"{file.stem}/", labels)):
        if some:
            stop_at_fatal(file, check_files(folder, *zip(*some, strict=True)))
        pictures |= {f"{within}{name}": folder / name for _, name in some}
    return pictures


def grouped(pictures: Mapping[str, Path], most: float) -> Iterator[dict[str, Path]]:
    """Neighbours that together have so many bytes, and at least one picture."""
    group: dict[str, Path] = {}
    filled = 0
    for name, file in pictures.items():
        size = file.stat().st_size
        if group and filled + size > most:
            yield group
            group, filled = {}, 0
        group[name] = file
        filled += size
    if group:
        yield group


def pack(tar: Path, pictures: Mapping[str, Path]) -> None:
    """The same pictures give the same bytes: of the files, only names and contents are kept."""
    with tarfile.open(tar, "w") as archive:
        for name, picture in pictures.items():
            with picture.open("rb") as file:
                entry = tarfile.TarInfo(name)
                entry.size = picture.stat().st_size
                archive.addfile(entry, file)


def enter(connection: Any, number: int, tar: Path) -> None:
    """What is in a tar, as it is read back."""
    shard = (number, tar.name, tar.stat().st_size, digest_of(tar))
    connection.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", shard)
    with tarfile.open(tar) as archive:
        rows = [(e.name, e.name.rpartition("/")[0], number, e.offset_data, e.size) for e in archive]
    connection.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", rows)
