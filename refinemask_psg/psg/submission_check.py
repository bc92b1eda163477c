"""A submission's zip: opened without unpacking it, and every way in which it can be wrong."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.images import MAX_PIXELS
from common.errors import UserError
from refinemask_psg.psg.files import TestEntry, decode, entry_faults, read_test

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
    entries: list[SubmittedImage]
    folder: str  # where relation.json is inside the zip, "" or ending in "/"
    names: list[str]  # all files in the zip

    def where(self, index: int) -> str:
        return f"{self.file}: relation.json[{index}] ({self.entries[index].pan_seg_file_name!r:.40})"

    def pictures(self) -> Iterator[NDArray[np.uint8] | str]:
        """The PNG of each entry, [H, W, 3] RGB, or what is wrong with it."""
        with zipfile.ZipFile(self.file) as archive:
            for entry in self.entries:
                yield read_png(archive, f"{self.folder}panseg/{entry.pan_seg_file_name}")


def open_submission(file: Path) -> Opened:
    """The zip with its relation.json read; a file that is none is a UserError."""
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file; check the path")
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            listed = [name for name in ("submission/relation.json", "relation.json") if name in names]
            if not listed:
                raise UserError(f"{file}: has no relation.json; expected {LAYOUT}, it has {names[:4]}")
            content = read_member(archive, listed[0])
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{file}: cannot be read as a zip ({error}); zip the folder submission again") from error
    if isinstance(content, str):
        raise UserError(f"{file}: {listed[0]} {content}")
    raw = decode(content, list[msgspec.Raw], f"{file}: {listed[0]}", "a list with an entry for each image")
    expected = "relations, segments_info and pan_seg_file_name"
    entries = [
        decode(each, SubmittedImage, f"{file}: relation.json[{index}]", expected) for index, each in enumerate(raw)
    ]
    return Opened(file, entries, listed[0].removesuffix("relation.json"), names)


def read_member(archive: zipfile.ZipFile, name: str) -> bytes | str:
    """A file in the zip, or what is wrong with it."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        return "is not in the zip"
    if info.file_size > MAX_BYTES:
        return f"would unpack to {info.file_size} bytes"
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f"is damaged ({error})"


def read_png(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8] | str:
    content = read_member(archive, name)
    if isinstance(content, str):
        return f"its PNG {name} {content}"
    try:
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
        if picture.width * picture.height > MAX_PIXELS:
            return f"its PNG {name} has {picture.width} x {picture.height} pixels"
        if picture.mode != "RGB":
            return f"its PNG {name} is of mode {picture.mode}, expected RGB with 8 bits"
        return np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"its PNG {name} cannot be decoded ({error})"


def check_submission(submission: Opened, annotations: Path | None = None) -> tuple[list[str], list[str]]:
    """Faults, and notes on what is allowed but costs points."""
    expected = read_test(annotations) if annotations else None
    faults, notes = [], []
    if not submission.folder:
        notes.append("relation.json is not in a folder 'submission'; some servers look for that")
    if expected is not None and len(expected) != len(submission.entries):
        faults.append(f"relation.json has {len(submission.entries)} entries, {annotations} {len(expected)} images")
        expected = None
    used = [entry.pan_seg_file_name for entry in submission.entries]
    faults += [
        f"{name!r} is the PNG of {used.count(name)} entries" for name in sorted(set(used)) if used.count(name) > 1
    ]
    black = 0
    for index, picture in enumerate(submission.pictures()):
        problems = faults_of(submission.entries[index])
        if isinstance(picture, str):
            problems.append(picture)
        else:
            problems += picture_faults(submission.entries[index], picture, expected[index] if expected else None)
            black += bool((picture == 0).all(axis=2).any())
        faults += [f"{submission.where(index)}: {problem}" for problem in problems]
    return faults, notes + score_notes(submission, black)


def faults_of(entry: SubmittedImage) -> list[str]:
    segments = [(segment.id, segment.category_id) for segment in entry.segments_info]
    faults = list(entry_faults(segments, entry.relations, 1, CLASSES, range(1, PREDICATES + 1)))
    if "/" in entry.pan_seg_file_name or "\\" in entry.pan_seg_file_name:
        faults.append("pan_seg_file_name must be the name of a file in panseg")
    return faults


def picture_faults(entry: SubmittedImage, picture: NDArray[np.uint8], expected: TestEntry | None) -> list[str]:
    faults = []
    if expected and picture.shape[:2] != (expected.height, expected.width):
        size = f"{expected.width} x {expected.height}"
        faults.append(f"its PNG is {picture.shape[1]} x {picture.shape[0]}, image {expected.image_id} is {size}")
    painted = set(np.unique(ids_of(picture)).tolist()) - {0}
    listed = {segment.id for segment in entry.segments_info}
    if painted - listed:
        faults.append(f"id {min(painted - listed)} is in its PNG but not in segments_info")
    if listed - painted:
        faults.append(f"id {min(listed - painted)} is in segments_info but not in its PNG")
    return faults


def ids_of(picture: NDArray[np.uint8]) -> NDArray[Any]:
    """[H, W, 3] RGB -> [H, W]"""
    red, green, blue = (picture[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue


def score_notes(submission: Opened, black: int) -> list[str]:
    notes = []
    silent = sum(not entry.relations for entry in submission.entries)
    if silent:
        notes.append(f"{silent} images have no relation")
    longer = sum(len(entry.relations) > COUNTED for entry in submission.entries)
    if longer:
        notes.append(f"{longer} images have more than {COUNTED} relations; only the first {COUNTED} count")
    if black:
        notes.append(f"{black} PNGs have black pixels; the challenge takes them for a person, which costs PQ")
    used = {f"{submission.folder}panseg/{entry.pan_seg_file_name}" for entry in submission.entries}
    unused = set(submission.names) - used - {f"{submission.folder}relation.json"}
    if unused:
        notes.append(f"{len(unused)} files are not used, such as {min(unused)!r:.60}")
    return notes
