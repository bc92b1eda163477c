"""PSG's annotation files: read, checked entry by entry, and turned into files of COCO's panoptic and instance formats.

- The competition's files number classes and predicates from 0, ours (as the original's) classes from 1.
- `original_faults`: the class list says " truck", the list of things "truck", so trucks become stuff.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from common.data.annotation_files import Side, Whole
from common.errors import UserError

Number = int | float
T = TypeVar("T")
COCO_THINGS = 80
KEPT_OF_IMAGES = ("file_name", "height", "width", "id")


class Segment(msgspec.Struct):
    """A segment of the panoptic PNG."""

    id: Whole  # R + 256 G + 65536 B
    category_id: Whole
    iscrowd: int
    area: Number


class Box(msgspec.Struct):
    """The box of the segment at the same place in the list."""

    bbox: tuple[Number, Number, Number, Number]  # x1, y1, x2, y2
    category_id: Whole


class PsgEntry(msgspec.Struct):
    """One image of a file of the competition."""

    file_name: str
    height: Side
    width: Side
    image_id: str
    pan_seg_file_name: str
    coco_image_id: str
    segments_info: list[Segment]
    annotations: list[Box]
    relations: list[tuple[Whole, Whole, Whole]]  # subject and object, places in segments_info; predicate


class TestEntry(msgspec.Struct):
    """One image of psg_val_test.json; of most the truth is not known, so nothing else is asked for."""

    file_name: str
    image_id: str
    height: Side
    width: Side


class _TestFile(msgspec.Struct):
    data: list[msgspec.Raw]


class _PsgFile(msgspec.Struct):
    data: list[msgspec.Raw]
    thing_classes: list[str]
    stuff_classes: list[str]
    predicate_classes: list[str]
    test_image_ids: list[str]


@dataclass
class PsgFile:
    """A file of the competition, or the full release."""

    entries: list[PsgEntry]
    thing_classes: list[str]
    stuff_classes: list[str]
    predicate_classes: list[str]
    test_image_ids: set[str]

    def split(self) -> tuple[list[PsgEntry], list[PsgEntry]]:
        """Entries for training, and those whose image_id is a test image's: for validation."""
        held_out = [entry.image_id in self.test_image_ids for entry in self.entries]
        pairs = list(zip(self.entries, held_out, strict=True))
        return [entry for entry, out in pairs if not out], [entry for entry, out in pairs if out]


def read_bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def decode(content: bytes | msgspec.Raw, kind: type[T], where: str, expected: str) -> T:
    """JSON as a `kind`; what is wrong with it is one line."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error).replace("`$", "`").replace("`.", "`")
        raise UserError(f"{where}: {problem}; expected {expected}, download it again") from error


Progress = Callable[[list[msgspec.Raw]], Iterable[msgspec.Raw]]


def read_test(path: Path, progress: Progress = iter) -> list[TestEntry]:
    """The images of psg_val_test.json, in the order in which a submission has them."""
    entries = []
    for index, raw in enumerate(progress(decode(read_bytes(path), _TestFile, str(path), "a PSG file").data)):
        entry = decode(raw, TestEntry, f"{path}: data[{index}]", "an entry of a PSG annotation file")
        problem = path_fault(entry.file_name)
        if problem:
            raise UserError(f"{path}: data[{index}] (image_id {entry.image_id!r:.40}): its file_name {problem}")
        entries.append(entry)
    return entries


def read_psg(path: Path, progress: Progress = iter) -> PsgFile:
    """A file of the competition with every entry checked; `progress` may watch them go by."""
    file = decode(read_bytes(path), _PsgFile, str(path), "a PSG annotation file")
    classes, predicates = len(file.thing_classes) + len(file.stuff_classes), len(file.predicate_classes)
    entries = []
    for index, raw in enumerate(progress(file.data)):
        entry = decode(raw, PsgEntry, f"{path}: data[{index}]", "an entry of a PSG annotation file")
        where = f"{path}: data[{index}] (image_id {entry.image_id!r:.40})"
        problem = fault_of(entry, classes, predicates)
        if problem:
            raise UserError(f"{where}: {problem}; correct the entry or remove it")
        entries.append(entry)
    return PsgFile(entries, file.thing_classes, file.stuff_classes, file.predicate_classes, set(file.test_image_ids))


def fault_of(entry: PsgEntry, classes: int, predicates: int) -> str | None:
    """What is wrong with an entry, or None."""
    for name in ("image_id", "coco_image_id"):
        if not re.fullmatch(r"[0-9]{1,18}", getattr(entry, name)):
            return f"its {name} is {getattr(entry, name)!r:.40}, expected digits"
    for name in ("file_name", "pan_seg_file_name"):
        problem = path_fault(getattr(entry, name))
        if problem:
            return f"its {name} {problem}"
    if entry.height < 1 or entry.width < 1:
        return f"it is {entry.width} x {entry.height} pixels, expected at least one"
    if len(entry.annotations) != len(entry.segments_info):
        return f"it has {len(entry.annotations)} annotations for {len(entry.segments_info)} segments_info"
    for place, (segment, box) in enumerate(zip(entry.segments_info, entry.annotations, strict=True)):
        if segment.category_id != box.category_id:
            ids = f"{segment.category_id} in segments_info and {box.category_id} in annotations"
            return f"segment {place} has category_id {ids}"
    segments = [(segment.id, segment.category_id) for segment in entry.segments_info]
    return next(entry_faults(segments, entry.relations, 0, classes, range(predicates)), None)


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


# --- COCO's formats ---


def panoptic_file(psg: PsgFile, entries: Sequence[PsgEntry], original_faults: bool = False) -> dict[str, Any]:
    """Entries in COCO's panoptic format, with their relations."""
    return {
        "images": [image_of(entry) for entry in entries],
        "annotations": [
            {
                "segments_info": [
                    {
                        "id": segment.id,
                        "category_id": segment.category_id + 1,
                        "iscrowd": segment.iscrowd,
                        "bbox": xywh(box.bbox),
                        "area": segment.area,
                    }
                    for segment, box in zip(entry.segments_info, entry.annotations, strict=True)
                ],
                "file_name": entry.pan_seg_file_name,
                "image_id": int(entry.image_id),
                "relations": [list(relation) for relation in entry.relations],
            }
            for entry in entries
        ],
        "categories": categories(psg, original_faults),
        "relations_categories": numbered(psg.predicate_classes),
    }


def image_of(entry: PsgEntry) -> dict[str, Any]:
    return {
        "file_name": entry.file_name,
        "height": entry.height,
        "width": entry.width,
        "id": int(entry.image_id),
    }


def xywh(box: Sequence[Number]) -> list[Number]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def categories(psg: PsgFile, original_faults: bool) -> list[dict[str, Any]]:
    listed = []
    for index, name in enumerate([*psg.thing_classes, *psg.stuff_classes]):
        faulty = original_faults and name == "truck"
        thing = index < len(psg.thing_classes) and not faulty
        named = f" {name}" if faulty else name
        listed.append({"supercategory": "", "isthing": int(thing), "id": index + 1, "name": named})
    return listed


def numbered(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def with_80_classes(instances: dict[str, Any], path: Path) -> dict[str, Any]:
    """COCO's instances with ids 1 to 80 instead of the sparse ones, and of its images only what is needed."""
    for part in ("images", "annotations", "categories"):
        if not isinstance(instances.get(part), list):
            raise UserError(f"{path}: not in COCO's instance format: expected '{part}' as a list")
    listed = instances["categories"]
    if len(listed) != COCO_THINGS:
        raise UserError(f"{path}: {len(listed)} categories, expected COCO's {COCO_THINGS}")
    try:
        new_ids = {category["id"]: number for number, category in enumerate(listed, start=1)}
        images = [{key: image[key] for key in image if key in KEPT_OF_IMAGES} for image in instances["images"]]
        kept = [
            annotation | {"category_id": new_ids[annotation["category_id"]]}
            for annotation in instances["annotations"]
            if annotation["category_id"] in new_ids
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: {_first_without(instances, error)}; download it again") from error
    renumbered = [category | {"id": new_ids[category["id"]]} for category in listed]
    return instances | {"images": images, "categories": renumbered, "annotations": kept}


def _first_without(instances: dict[str, Any], error: Exception) -> str:
    """Which entry lacks what COCO's have."""
    needed = {"categories": ("id",), "images": KEPT_OF_IMAGES, "annotations": ("category_id", "image_id")}
    for part, keys in needed.items():
        for index, entry in enumerate(instances[part]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                return f"{part}[{index}] has no {missing[0]}"
    return str(error)


def psg_instances(coco: dict[str, Any], entries: Sequence[PsgEntry]) -> dict[str, Any]:
    """COCO's instances of the entries' images under their PSG ids; of two entries of one image the last has them."""
    psg_ids = {int(entry.coco_image_id): int(entry.image_id) for entry in entries}
    return {
        "images": [image_of(entry) for entry in entries],
        "annotations": [
            annotation | {"image_id": psg_ids[annotation["image_id"]]}
            for annotation in coco["annotations"]
            if annotation.get("image_id") in psg_ids
        ],
        "categories": coco["categories"],
    }
