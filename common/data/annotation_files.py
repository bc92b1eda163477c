"""One COCO-format file, read into numpy columns; what cannot be read is named as a fault.

- Annotations are decoded one at a time, so that no tree of Python objects of the whole file ever exists.
- Segmentations stay the JSON text they are, in one buffer: compact, exact, and decoded on demand.
"""

import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct, ValidationError
from numpy.typing import NDArray

from common.errors import UserError
from common.files import read_bytes

Whole = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # an id; beyond, evaluation could not tell them apart
Side = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Int = NDArray[np.int64]
Flags = NDArray[np.bool_]
T = TypeVar("T")
Severity = Literal["fatal", "dropped", "noted"]

NO_MASK, POLYGONS, RLE = 0, 1, 2  # kinds of segmentation
FARTHEST = 1e9  # a coordinate in pixels; float32 must be able to hold it
MOST_CATEGORIES = 20_000  # V3Det has 13,204
UNKNOWN = float("nan")  # an area that the file does not give
NOT_JSON_NUMBERS = re.compile(rb"(?<=[\[:,\s])-?(?:NaN|Infinity)\b")


class CocoFile(Struct):
    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


class ImageEntry(Struct):
    id: Whole
    file_name: str
    width: Side
    height: Side


class CategoryEntry(Struct):
    id: Whole
    name: str
    keypoints: list[str] | None = None
    skeleton: list[list[int]] | None = None


class AnnotationEntry(Struct, gc=False):
    id: Whole
    image_id: Whole
    category_id: Whole
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool = 0
    segmentation: Raw = Raw(b"null")
    keypoints: list[float] | None = None


class RleEntry(Struct, gc=False):
    size: tuple[int, int]
    counts: str | list[int]


Segmentation = list[list[float]] | RleEntry | None


class Decoder(Generic[T]):
    """Strict first, because that is fast; then lenient: 640.0 or "640" for a whole number, "nan" too."""

    def __init__(self, kind: Any) -> None:
        self.strict: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self.lenient: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind, strict=False)

    def __call__(self, text: Raw | bytes | memoryview) -> T:
        try:
            return self.strict.decode(text)
        except ValidationError:
            return self.lenient.decode(text)


decode_annotation: Decoder[AnnotationEntry] = Decoder(AnnotationEntry)
decode_segmentation: Decoder[Segmentation] = Decoder(Segmentation)


@dataclass(frozen=True)
class Fault:
    """Fatal: training on it would be wrong. Dropped: that entry cannot be used. Noted: worth knowing."""

    severity: Severity
    kind: str  # "unknown category"
    where: str  # "annotation 17"
    problem: str  # what is wrong and what was expected
    remedy: str  # what to do

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; {self.remedy}"


@dataclass
class Annotations:
    """One file: images in its order, annotations in its order."""

    categories: list[CategoryEntry]  # sorted by id
    image_ids: Int  # [I]
    file_names: list[str]  # [I]
    sizes: NDArray[np.int32]  # [I, 2] height, width
    ids: Int  # [A]
    image_index: Int  # [A] into the images, -1 where the file names an unknown one
    labels: Int  # [A] into the categories, -1 likewise
    boxes: NDArray[np.float64]  # [A, 4] x, y, width, height as in the file
    areas: NDArray[np.float64]  # [A] NaN where the file has none
    crowd: Flags  # [A]
    kinds: NDArray[np.uint8]  # [A] NO_MASK, POLYGONS or RLE
    text: NDArray[np.uint8]  # the segmentations as JSON text, one after the other
    text_ends: Int  # [A]
    keypoints: NDArray[np.float64] | None  # [A, K, 3] x, y, visibility
    usable: Flags  # [A] False for those with a fault

    def segmentation(self, index: int) -> Segmentation:
        begin = self.text_ends[index - 1] if index else 0
        return decode_segmentation(self.text[begin : self.text_ends[index]].data)


def read_as(path: Path, kind: type[T], expected: str) -> T:
    """A JSON file as a `kind`; a UserError if it is none."""
    try:
        content = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected {expected}") from error
    return decode_as(content, kind, str(path), expected)


def decode_as(content: bytes, kind: type[T], where: str, expected: str) -> T:
    """JSON as a `kind`; what is wrong with it, and in which entry, is one line."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`")  # such as .data[1].relations[0]
        where += place if place.startswith("[") else place.replace(".", ": ", 1)
        raise UserError(f"{where}: {problem}; expected {expected}") from error


def read_columns(path: Path) -> tuple[Annotations, list[Fault]]:
    """The file's content and the entries that cannot be read, which are missing from the content."""
    content = _parse(path)
    if len(content.categories) > MOST_CATEGORIES:
        problem = f"{len(content.categories):,} categories, the limit is {MOST_CATEGORIES:,}"
        raise UserError(f"{path}: {problem}; leave out those that no annotation is of")
    faults: list[Fault] = []
    categories = _read_entries(content.categories, Decoder[CategoryEntry](CategoryEntry), "category", faults)
    categories.sort(key=lambda category: category.id)
    images = _read_entries(content.images, Decoder[ImageEntry](ImageEntry), "image", faults)
    return _read_annotations(content.annotations, categories, images, faults), faults


def _parse(path: Path) -> CocoFile:
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a COCO annotation file") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        try:
            return msgspec.json.decode(data, type=CocoFile)
        except ValidationError:
            raise
        except msgspec.DecodeError:
            if not NOT_JSON_NUMBERS.search(data):
                raise
            # Python writes these, though JSON has none: made readable, to name the entries they are in.
            return msgspec.json.decode(NOT_JSON_NUMBERS.sub(b'"nan"', data), type=CocoFile)
    except ValidationError as error:
        hint = 'expected a COCO object with "images", "annotations" and "categories"'
        raise UserError(f"{path}: {_plain(error)}; {hint}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON: {error} of {len(data)} bytes; write the file again") from error


def _plain(error: Exception) -> str:
    text = str(error).replace("`", "'").replace("Object missing required field", "missing key")
    return re.sub(r" - at '\$\.?(.*?)'$", r" at \1", text).removesuffix(" at ")


def _name_entry(kind: str, index: int, raw: Raw) -> str:
    try:
        identity = msgspec.json.decode(raw).get("id")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        identity = None
    return f"{kind} number {index} (without id)" if identity is None else f"{kind} {str(identity)[:40]}"


def _read_entries(raws: list[Raw], decode: Decoder[T], kind: str, faults: list[Fault]) -> list[T]:
    entries = []
    for index, raw in enumerate(raws):
        try:
            entries.append(decode(raw))
        except (ValidationError, UnicodeDecodeError) as error:
            faults.append(_unreadable(kind, index, raw, error))
    return entries


def _unreadable(kind: str, index: int, raw: Raw, error: Exception) -> Fault:
    return Fault("fatal", "bad entry", _name_entry(kind, index, raw), _plain(error), "correct or remove the entry")


def _read_annotations(
    raws: list[Raw], categories: list[CategoryEntry], images: list[ImageEntry], faults: list[Fault]
) -> Annotations:
    whole = array("q")  # of each: id, image id, category id, where its segmentation and its keypoints end
    real = array("d")  # of each: box, area
    small = array("b")  # of each: crowd, kind of segmentation
    text, points = bytearray(), array("d")
    for index, raw in enumerate(raws):
        try:
            entry, segmentation = _decode_annotation(raw)
        except (ValidationError, UnicodeDecodeError) as error:
            faults.append(_unreadable("annotation", index, raw, error))
            continue
        if entry.keypoints:
            points.extend(entry.keypoints)
        text += entry.segmentation
        whole.extend((entry.id, entry.image_id, entry.category_id, len(text), len(points)))
        real.extend(entry.bbox)
        real.append(UNKNOWN if entry.area is None else entry.area)
        small.append(bool(entry.iscrowd))
        small.append(_check_segmentation(entry.id, segmentation, faults))
    return _assemble(categories, images, (np.array(whole), np.array(real), np.array(small)), (text, points), faults)


def _decode_annotation(raw: Raw) -> tuple[AnnotationEntry, Segmentation]:
    try:
        entry = decode_annotation.strict.decode(raw)
        return entry, decode_segmentation.strict.decode(entry.segmentation)
    except ValidationError:
        entry = decode_annotation.lenient.decode(raw)
        segmentation = decode_segmentation.lenient.decode(entry.segmentation)
    if isinstance(segmentation, list) and not all(np.isfinite(polygon).all() for polygon in segmentation):
        raise ValidationError("a polygon has a coordinate that is NaN or infinite")
    return entry, segmentation


def _assemble(
    categories: list[CategoryEntry],
    images: list[ImageEntry],
    rows: tuple[Int, NDArray[np.float64], NDArray[np.int8]],
    buffers: tuple[bytearray, array],  # type: ignore[type-arg]  # subscripts only since Python 3.12
    faults: list[Fault],
) -> Annotations:
    ids, image_ids, category_ids, text_ends, point_ends = rows[0].reshape(-1, 5).T.copy()
    real, (crowd, kinds) = rows[1].reshape(-1, 5), rows[2].reshape(-1, 2).T
    image_columns = np.array([image.id for image in images], np.int64)
    return Annotations(
        categories,
        image_columns,
        [image.file_name for image in images],
        np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2),
        ids,
        find_among(image_ids, image_columns),
        find_among(category_ids, np.array([category.id for category in categories], np.int64)),
        real[:, :4].copy(),
        real[:, 4].copy(),
        crowd.astype(bool),
        kinds.astype(np.uint8),
        np.frombuffer(buffers[0], np.uint8),
        text_ends,
        _gather_keypoints(ids, np.array(buffers[1]), point_ends, faults),
        np.ones(len(ids), bool),
    )


def find_among(values: Int, among: Int) -> Int:
    """Where each of the values, in any shape, is among others (the first of equals); -1 where it is not."""
    if not len(among):
        return np.full(values.shape, -1)
    order = np.argsort(among, kind="stable")
    position = np.minimum(np.searchsorted(among[order], values), len(among) - 1)
    return np.where(among[order[position]] == values, order[position], -1)


def _gather_keypoints(
    ids: Int, points: NDArray[np.float64], ends: Int, faults: list[Fault]
) -> NDArray[np.float64] | None:
    """The keypoints of all annotations [A, K, 3]; zeros for those without; None if there are none at all."""
    if not len(points):
        return None
    counts = np.diff(ends, prepend=0)
    expected = int(np.bincount(counts[counts > 0]).argmax())  # the most frequent is right
    expected += -expected % 3
    keypoints = np.zeros((len(ids), expected))
    fitting = counts == expected
    keypoints[fitting] = points[np.repeat(fitting, counts)].reshape(-1, expected)
    infinite = np.flatnonzero(~(np.abs(keypoints) <= FARTHEST).all(axis=1))
    broken = dict.fromkeys(infinite.tolist(), "a keypoint is NaN, infinite or out of range")
    for index in np.flatnonzero(~fitting & (counts > 0)).tolist():
        broken[index] = f"{counts[index]} keypoint numbers, expected {expected} (x, y, visibility of each)"
    for index, problem in broken.items():
        faults.append(Fault("fatal", "bad keypoints", f"annotation {ids[index]}", problem, "correct its keypoints"))
    return keypoints.reshape(len(ids), -1, 3)


def _check_segmentation(identity: int, segmentation: Segmentation, faults: list[Fault]) -> int:
    """Which kind of segmentation it is; polygons that cannot be drawn are named."""
    if isinstance(segmentation, RleEntry):
        return RLE
    kind = NO_MASK
    for index, polygon in enumerate(segmentation or ()):
        if len(polygon) >= 6 and len(polygon) % 2 == 0:
            kind = POLYGONS
        else:
            faults.append(_bad_polygon(f"annotation {identity}", index, len(polygon)))
    return kind


def _bad_polygon(where: str, index: int, length: int) -> Fault:
    if length < 6:
        problem = f"polygon {index} has {length} numbers, expected x and y of at least 3 corners"
        return Fault("dropped", "tiny polygon", where, problem, "remove the polygon (it is left out)")
    problem = f"polygon {index} has an odd number of coordinates ({length}), expected x, y, x, y, ..."
    return Fault("fatal", "odd polygon", where, problem, "correct the polygon")
