"""A submission's zip: opened without unpacking it, and every way in which it can be wrong."""

import io
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.annotation_files import decode_as
from common.data.images import MAX_PIXELS
from common.errors import UserError
from refinemask_psg.psg.files import TestEntry, entry_faults, read_test

LAYOUT = "submission/relation.json and submission/panseg/*.png"
MAX_BYTES = 2**30  # of one unpacked file
CLASSES, PREDICATES = 133, 56
COUNTED = 20  # relations of an image; the challenge ignores the others


class SubmittedSegment(msgspec.Struct):
    category_id: int
    id: int


class SubmittedImage(msgspec.Struct):
    """One entry of relation.json."""

    relations: list[tuple[int, int, int]]  # subject, object, predicate from 1
    segments_info: list[SubmittedSegment]
    pan_seg_file_name: str


@dataclass
class Opened:
    """A submission, its entries read and its PNGs where they are."""

    file: Path
    archive: zipfile.ZipFile
    entries: list[SubmittedImage]
    folder: str  # where relation.json is inside the zip, "" or ending in "/"

    @property
    def names(self) -> list[str]:
        return [name for name in self.archive.namelist() if not name.endswith("/")]

    def where(self, index: int) -> str:
        return f"{self.file}: relation.json[{index}] ({self.entries[index].pan_seg_file_name!r:.40})"

    def ids(self, index: int) -> NDArray[np.int64]:
        """[H, W]: the segment of each pixel of an entry's PNG."""
        name = f"{self.folder}panseg/{self.entries[index].pan_seg_file_name}"
        where = f"{self.where(index)}: its PNG {name}"
        content = read_member(self.archive, name, where)
        try:
            picture = Image.open(io.BytesIO(content), formats=["PNG"])
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(f"{where} has {picture.width} x {picture.height} pixels")
            if picture.mode != "RGB":
                raise UserError(f"{where} is of mode {picture.mode}, expected RGB with 8 bits")
            return ids_of(np.asarray(picture))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{where} cannot be decoded ({error})") from error


def ids_of(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[H, W, 3] RGB -> [H, W]"""
    ids: NDArray[np.int64] = picture.astype(np.int64) @ np.array([1, 256, 65536])
    return ids


def open_submission(file: Path) -> Opened:
    """The zip with its relation.json read; a file that is none is a UserError."""
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file; check the path")
    try:
        archive = zipfile.ZipFile(file)
        found = [name for name in ("submission/relation.json", "relation.json") if name in archive.namelist()]
        if not found:
            raise UserError(f"{file}: has no relation.json; expected {LAYOUT}, it has {archive.namelist()[:4]}")
        content = read_member(archive, found[0], f"{file}: {found[0]}")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read as a zip ({error}); zip the folder submission again") from error
    expected = "a list with relations, segments_info and pan_seg_file_name for each image"
    entries = decode_as(content, list[SubmittedImage], f"{file}: relation.json", expected)
    return Opened(file, archive, entries, found[0].removesuffix("relation.json"))


def read_member(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    try:
        info = archive.getinfo(name)
        if info.file_size > MAX_BYTES:
            raise UserError(f"{where} would unpack to {info.file_size} bytes")
        return archive.read(info)
    except KeyError as error:
        raise UserError(f"{where} is not in the zip") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # the last: a password
        raise UserError(f"{where} is damaged ({error})") from error


def check_submission(submission: Opened, annotations: Path | None = None) -> tuple[list[str], list[str]]:
    """Faults, and notes on what is allowed but costs points."""
    expected = read_test(annotations) if annotations else None
    faults, black = [], 0
    if expected is not None and len(expected) != len(submission.entries):
        faults.append(f"relation.json has {len(submission.entries)} entries, {annotations} {len(expected)} images")
        expected = None
    used = Counter(entry.pan_seg_file_name for entry in submission.entries)
    faults += [f"{name!r} is the PNG of {used[name]} entries" for name in sorted(used) if used[name] > 1]
    for index, entry in enumerate(submission.entries):
        where = submission.where(index)
        faults += [f"{where}: {problem}" for problem in faults_of(entry)]
        try:
            ids = submission.ids(index)
        except UserError as error:
            faults.append(str(error))
            continue
        faults += [f"{where}: {problem}" for problem in map_faults(entry, ids, expected[index] if expected else None)]
        black += bool((ids == 0).any())
    return faults, notes_on(submission, black)


def faults_of(entry: SubmittedImage) -> list[str]:
    segments = [(segment.id, segment.category_id) for segment in entry.segments_info]
    faults = list(entry_faults(segments, entry.relations, 1, CLASSES, range(1, PREDICATES + 1)))
    if "/" in entry.pan_seg_file_name or "\\" in entry.pan_seg_file_name:
        faults.append("pan_seg_file_name must be the name of a file in panseg")
    return faults


def map_faults(entry: SubmittedImage, ids: NDArray[np.int64], expected: TestEntry | None) -> list[str]:
    faults = []
    if expected and ids.shape != (expected.height, expected.width):
        size = f"{expected.width} x {expected.height}"
        faults.append(f"its PNG is {ids.shape[1]} x {ids.shape[0]}, image {expected.image_id} is {size}")
    painted = set(np.unique(ids).tolist()) - {0}
    listed = {segment.id for segment in entry.segments_info}
    if painted - listed:
        faults.append(f"id {min(painted - listed)} is in its PNG but not in segments_info")
    if listed - painted:
        faults.append(f"id {min(listed - painted)} is in segments_info but not in its PNG")
    return faults


def notes_on(submission: Opened, black: int) -> list[str]:
    """`black` of the PNGs have pixels without a segment."""
    counts = [len(entry.relations) for entry in submission.entries]
    silent, longer = counts.count(0), sum(count > COUNTED for count in counts)
    used = {f"{submission.folder}panseg/{entry.pan_seg_file_name}" for entry in submission.entries}
    unused = set(submission.names) - used - {f"{submission.folder}relation.json"}
    notes = {
        "relation.json is not in a folder 'submission'; some servers look for that": not submission.folder,
        f"{silent} images have no relation": silent,
        f"{longer} images have more than {COUNTED} relations; only the first {COUNTED} count": longer,
        f"{black} PNGs have black pixels; the challenge takes them for a person, which costs PQ": black,
        f"{len(unused)} files are not used, such as {min(unused, default='')!r:.60}": unused,
    }
    return [note for note, holds in notes.items() if holds]
