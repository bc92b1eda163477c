"""COCO files as they lie about: COCO's own layout, the exports of Roboflow, CVAT, Label Studio and Labelbox, ODinW's.

A package looks for its own kind of them, its task: objects, joints, captions, panoptic maps or PSG's scene graphs.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from common.errors import UserError
from common.files import read_bytes
from common.run.settings import Images
from maskworks.own_data.coco_writing import Json

T = TypeVar("T")
TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test", "testing")
USUAL_NAMES = (
    "annotations_without_background.json",
    "annotations.json",
    "_annotations.coco.json",
    "instances_default.json",
    "result.json",
    "labels.json",
)
LOOKED_FOR = 20  # pictures of a file by which their folder is found, and folders beside it
# task -> the kinds of file that it takes, and what COCO's own files of it begin with
TASKS = {
    "instances": (("coco", "keypoints"), "instances"),
    "captions": (("coco",), "instances"),
    "keypoints": (("keypoints",), "person_keypoints"),
    "panoptic": (("panoptic",), "panoptic"),
    "scene_graph": (("scene_graph",), "psg"),
}
OWNERS = {"scene_graph": "PSG"}


@dataclass
class Part:
    """Labelled pictures: a COCO file or the content of one, and the folder that file_name starts from."""

    folder: Path
    file: Path | None
    made: Json | None = None
    maps: Path | None = None  # of panoptic content, whose PNGs lie elsewhere than beside it

    def content(self) -> Json:
        return self.made if self.made is not None else decoded(self.file, Json) if self.file else {}


class Head(msgspec.Struct):
    """What tells COCO's files from labelme's, and from those that are for other tasks."""

    images: list[msgspec.Raw] | None = None
    annotations: list[msgspec.Raw] | None = None
    categories: list[msgspec.Raw] | None = None
    relations_categories: list[msgspec.Raw] | None = None
    predicate_classes: list[msgspec.Raw] | None = None
    shapes: list[msgspec.Raw] | None = None
    image_path: str | None = msgspec.field(default=None, name="imagePath")


class ImageName(msgspec.Struct):
    file_name: str
    id: int = 0


class Category(msgspec.Struct):
    id: int
    name: str
    supercategory: str | None = None


class OfCategory(msgspec.Struct):
    image_id: int
    category_id: int


class Names(msgspec.Struct):
    """What is looked at of a COCO file; the loader checks everything."""

    images: list[ImageName]
    categories: list[Category]
    annotations: list[OfCategory]


class OfClass(msgspec.Struct):
    category_id: int


class Segmented(msgspec.Struct):
    """What is counted of a panoptic annotation, or of a picture of PSG's."""

    segments_info: list[OfClass]
    image_id: int | str
    file_name: str = ""  # of PSG's the picture's, else the PNG's


class SegmentedImage(msgspec.Struct):
    id: int | str
    file_name: str


class Segments(msgspec.Struct):
    images: list[SegmentedImage] = []
    annotations: list[Segmented] = []
    categories: list[Category] = []
    data: list[Segmented] = []
    thing_classes: list[str] = []
    stuff_classes: list[str] = []
    test_image_ids: list[str] = []


class Counted(NamedTuple):
    """What is looked at of a data set of objects or of segments."""

    pictures: list[Path]
    segments: dict[str, int]  # class -> how many there are


class OnlyImages(msgspec.Struct):
    images: list[ImageName] = []
    data: list[ImageName] = []  # PSG's


def kind_of(file: Path) -> str:
    """coco, one of its other tasks, labelme, or none of these."""
    try:
        head = msgspec.json.decode(_bytes(file), type=Head)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if head.relations_categories is not None or head.predicate_classes is not None:
        return "scene_graph"
    if head.images is not None and head.annotations is not None and head.categories is not None:
        first = b"".join(bytes(entry) for entry in head.annotations[:1])
        return "panoptic" if b'"segments_info"' in first else "keypoints" if b'"keypoints"' in first else "coco"
    return "labelme" if head.shapes is not None and head.image_path is not None else ""


def in_folder(path: Path, task: str = "instances") -> Iterator[tuple[str, Path, Path | None]]:
    """The COCO files in a folder or its annotations/: what it is, the file for training, and that for validation."""
    there = [file for place in (path, path / "annotations") for file in sorted(place.glob("*.json"))]
    kinds, start = TASKS[task]
    named = [file for file in there if file.name.startswith(start)]  # the others are for other tasks, and large
    files = [file for file in named or there if kind_of(file) in kinds]
    trains = [file for file in files if _part_named(file) in TRAIN]
    for train in trains:
        like = [
            file for name in VAL for file in files if file.name == re.sub("|".join(reversed(TRAIN)), name, train.name)
        ]
        val = next(iter(like or [file for name in VAL for file in files if _part_named(file) == name]), None)
        yield f"{OWNERS.get(task, 'COCO')}'s {train.name}" + (f" and {val.name}" if val else ""), train, val
    if trains:
        return
    usual = [file for name in USUAL_NAMES for file in files if file.name == name]
    for file in usual + [file for file in files if file not in usual]:
        yield f"the {OWNERS.get(task, 'COCO')} file {file.name}", file, None


def _part_named(file: Path) -> str:
    """instances_train2017.json -> train"""
    words = re.findall(r"[a-z]+", file.stem.lower())
    return next((word for word in words if word in (*TRAIN, *VAL)), "")


def read(file: Path, task: str = "instances") -> Part:
    """A COCO file and where its pictures are; changed are names written on Windows, and Roboflow's class of classes."""
    if task in ("panoptic", "scene_graph"):
        there = decoded(file, OnlyImages)
        listed = [entry.file_name for entry in (there.images or there.data)[:LOOKED_FOR]]
        return Part(pictures_of(file, listed), file, maps=file.with_suffix("") if task == "panoptic" else None)
    names = decoded(file, Names)
    pictures = [entry.file_name for entry in names.images]
    folder = pictures_of(file, [name.replace("\\", "/") for name in pictures[:LOOKED_FOR]])
    above, used = {c.supercategory for c in names.categories}, {entry.category_id for entry in names.annotations}
    roots = {c.id for c in names.categories if c.supercategory == "none" and c.name in above and c.id not in used}
    if not roots and not any("\\" in name for name in pictures):
        return Part(folder, file)
    content = decoded(file, Json)
    for entry in content["images"]:
        entry["file_name"] = entry["file_name"].replace("\\", "/")
    content["categories"] = [entry for entry in content["categories"] if entry["id"] not in roots]
    return Part(folder, None, content)


def counted_segments(named: Images, validating: bool) -> Counted:
    """The pictures and segments of a panoptic file or PSG's; of PSG's those that train, or that validate."""
    content = decoded(Path(named.annotations[0]), Segments)
    tested, names = set(content.test_image_ids), {image.id: image.file_name for image in content.images}
    own = content.annotations or [each for each in content.data if (each.image_id in tested) == validating]
    counts = Counter(segment.category_id for each in own for segment in each.segments_info)
    classes = {category.id: category.name for category in content.categories}
    classes = classes or dict(enumerate(content.thing_classes + content.stuff_classes))
    pictures = [Path(named.images[0]) / names.get(each.image_id, each.file_name) for each in own]
    return Counted(pictures, {name: counts[number] for number, name in classes.items()})


def decoded(file: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(_bytes(file), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not a COCO file that can be read: {error}; correct it") from error


def pictures_of(file: Path, names: list[str]) -> Path:
    """The folder in which most of a COCO file's pictures are."""
    near, above = file.parent, file.parent.parent
    found = re.search(r"(train|val|test)\d*", file.stem)  # person_keypoints_train2017_pose2seg
    part = found[0] if found else file.stem.removeprefix("instances_")
    folders = [near, near / "images", near / "data", near / part, near / "images" / part, near / "JPEGImages"]
    if near.name.lower() in {"annotations", "labels", "psg"}:
        folders += [above / part, above / "images" / part, above / "images", above, above / "JPEGImages"]
        beside = [folder for folder in sorted(above.iterdir()) if folder.is_dir() and folder != near]
        folders += beside[:LOOKED_FOR]  # flickr30k_images/, PSG's coco/
    there = {folder: sum((folder / name).is_file() for name in names) for folder in dict.fromkeys(folders)}
    best = max(folders, key=lambda folder: there[folder])
    if names and not there[best]:
        looked = ", ".join(str(folder) for folder in folders if folder.is_dir())
        raise UserError(f"{file}: its picture {names[0]} is not found; looked in {looked}; put the pictures there")
    return best


def _bytes(file: Path) -> bytes:
    return read_bytes(file).removeprefix(b"\xef\xbb\xbf")
