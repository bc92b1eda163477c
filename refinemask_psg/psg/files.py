"""PSG's annotation files: read, checked entry by entry, and turned into COCO's panoptic format.

- The competition's files number classes and predicates from 0, ours (as the original's) classes from 1.
- `original_faults`: the class list says " truck", the list of things "truck", so trucks become stuff.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from msgspec import Meta, Struct

from common.data.annotation_files import Side, Whole, read_as
from common.errors import UserError

EXPECTED = "a PSG file; download it again"
Number = int | float
Digits = Annotated[str, Meta(pattern="^[0-9]{1,15}$")]  # an id in quotes
Triplet = tuple[Whole, Whole, Whole]  # subject and object, places in segments_info; predicate

# --- the competition's files ---


class Segment(Struct):
    """A segment of the panoptic PNG."""

    id: Whole  # R + 256 G + 65536 B
    category_id: Whole
    iscrowd: int
    area: Number


class Box(Struct):
    """The box of the segment at the same place in the list."""

    bbox: tuple[Number, Number, Number, Number]  # x1, y1, x2, y2
    category_id: Whole


class PsgEntry(Struct):
    """One image of a file of the competition."""

    file_name: str
    height: Side
    width: Side
    image_id: Digits
    pan_seg_file_name: str
    coco_image_id: Digits
    segments_info: list[Segment]
    annotations: list[Box]
    relations: list[Triplet]


class PsgFile(Struct):
    """A file of the competition, or the full release."""

    data: list[PsgEntry]
    thing_classes: list[str]
    stuff_classes: list[str]
    predicate_classes: list[str]
    test_image_ids: list[str]

    def split(self) -> tuple[list[PsgEntry], list[PsgEntry]]:
        """Entries for training, and those whose image_id is a test image's: for validation."""
        tested = set(self.test_image_ids)
        kept = [entry for entry in self.data if entry.image_id not in tested]
        return kept, [entry for entry in self.data if entry.image_id in tested]


class TestEntry(Struct):
    """One image of psg_val_test.json; of most the truth is not known, so nothing else is asked for."""

    file_name: str
    image_id: str
    height: Side
    width: Side


class TestFile(Struct):
    data: list[TestEntry]


def read_test(path: Path) -> list[TestEntry]:
    """The images of psg_val_test.json, in the order in which a submission has them."""
    entries = read_as(path, TestFile, EXPECTED).data
    for index, entry in enumerate(entries):
        if problem := path_fault(entry.file_name):
            raise UserError(f"{path}: data[{index}] (image_id {entry.image_id!r:.40}): its file_name {problem}")
    return entries


def read_psg(path: Path) -> PsgFile:
    """A file of the competition with every entry checked."""
    file = read_as(path, PsgFile, EXPECTED)
    classes, predicates = len(file.thing_classes) + len(file.stuff_classes), range(len(file.predicate_classes))
    for index, entry in enumerate(file.data):
        if problem := next(faults_of(entry, classes, predicates), None):
            where = f"{path}: data[{index}] (image_id {entry.image_id!r:.40})"
            raise UserError(f"{where}: {problem}; correct the entry or remove it")
    return file


def faults_of(entry: PsgEntry, classes: int, predicates: range) -> Iterator[str]:
    for name in ("file_name", "pan_seg_file_name"):
        if problem := path_fault(getattr(entry, name)):
            yield f"its {name} {problem}"
    if len(entry.annotations) != len(entry.segments_info):
        yield f"it has {len(entry.annotations)} annotations for {len(entry.segments_info)} segments_info"
    for place, (segment, box) in enumerate(zip(entry.segments_info, entry.annotations, strict=False)):
        if segment.category_id != box.category_id:
            ids = f"{segment.category_id} in segments_info and {box.category_id} in annotations"
            yield f"segment {place} has category_id {ids}"
    segments = [(segment.id, segment.category_id) for segment in entry.segments_info]
    yield from entry_faults(segments, entry.relations, 0, classes, predicates)


def path_fault(name: str) -> str | None:
    """Whether a path of an annotation file would lead out of its folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    inside = bool(parts) and not name.startswith(("/", "\\")) and ".." not in parts and ":" not in parts[0]
    return None if inside and "\0" not in name else f"{name!r:.80} leads out of the folder of images"


def entry_faults(
    segments: Sequence[tuple[int, int]], relations: Iterable[Sequence[int]], first: int, classes: int, predicates: range
) -> Iterator[str]:
    """Segments (id, category_id): categories exist, ids are colours and not used twice; relations are between them."""
    seen: set[int] = set()
    for place, (segment_id, category) in enumerate(segments):
        if not first <= category < first + classes:
            yield f"segment {place} has category_id {category}, expected {first} to {first + classes - 1}"
        if not 0 < segment_id < 2**24:
            yield f"segment {place} has id {segment_id}, expected R + 256 G + 65536 B, not black"
        if segment_id in seen:
            yield f"segment {place} has id {segment_id}, which another has too"
        seen.add(segment_id)
    for place, (subject, target, predicate) in enumerate(relations):
        if not (0 <= subject < len(segments) and 0 <= target < len(segments)):
            yield f"relation {place} names segments {subject} and {target} of {len(segments)}"
        if predicate not in predicates:
            yield f"relation {place} has predicate {predicate}, expected {predicates[0]} to {predicates[-1]}"


# --- COCO's panoptic format, with relations: what is trained on ---


class PanopticSegment(Struct, kw_only=True):
    id: Whole
    category_id: Whole
    iscrowd: int = 0
    bbox: tuple[Number, Number, Number, Number]  # x, y, width, height
    area: Number


class Annotation(Struct):
    segments_info: list[PanopticSegment]
    file_name: str  # of the PNG
    image_id: Whole
    relations: list[Triplet] = []


class Image(Struct):
    file_name: str
    height: Side
    width: Side
    id: Whole


class Category(Struct, kw_only=True):
    supercategory: str = ""
    isthing: int = 1
    id: Whole
    name: str


class Predicate(Struct):
    id: Whole
    name: str


class PreparedFile(Struct):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    relations_categories: list[Predicate]


def panoptic_file(psg: PsgFile, entries: Sequence[PsgEntry], original_faults: bool = False) -> PreparedFile:
    """Entries in COCO's panoptic format, with their relations."""
    things, categories = len(psg.thing_classes), []
    for index, name in enumerate([*psg.thing_classes, *psg.stuff_classes]):
        faulty = original_faults and name == "truck"
        thing = index < things and not faulty
        categories.append(Category(isthing=int(thing), id=index + 1, name=f" {name}" if faulty else name))
    return PreparedFile(
        [image_of(entry) for entry in entries],
        [annotation_of(entry) for entry in entries],
        categories,
        [Predicate(number, name) for number, name in enumerate(psg.predicate_classes, start=1)],
    )


def image_of(entry: PsgEntry) -> Image:
    return Image(entry.file_name, entry.height, entry.width, int(entry.image_id))


def annotation_of(entry: PsgEntry) -> Annotation:
    segments = []
    for segment, box in zip(entry.segments_info, entry.annotations, strict=True):
        x1, y1, x2, y2 = box.bbox
        segments.append(
            PanopticSegment(
                id=segment.id,
                category_id=segment.category_id + 1,
                iscrowd=segment.iscrowd,
                bbox=(x1, y1, x2 - x1, y2 - y1),
                area=segment.area,
            )
        )
    return Annotation(segments, entry.pan_seg_file_name, int(entry.image_id), entry.relations)
