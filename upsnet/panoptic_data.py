"""PanopticDataset: COCO-format panoptic JSON, its PNGs and the images; checked while loading, decoded on demand.

- Classes are numbered things first, then stuff, each by category id, so that a thing's label is its class.
- A file's PNGs lie in the folder that is named like it, without ".json", as COCO has it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.data.annotation_checks import check_files, check_image
from common.data.annotation_files import Fault, ImageEntry, Int, Whole, find_among, read_as
from common.data.batches import UNLABELLED
from common.data.coco import Sample, as_paths, pair_folders, stop_at_fatal
from common.data.images import read_ids
from common.data.shards import folder_of
from common.errors import UserError
from common.files import leads_inside
from common.metrics.panoptic import IDS, VOID
from common.ops import masks as rle
from common.run.settings import Data, Training
from maskworks import shapes
from maskworks.commands import open_as


class SegmentEntry(Struct, gc=False):
    id: Whole
    category_id: Whole
    area: float
    iscrowd: int | bool = 0


class AnnotationEntry(Struct, gc=False):
    image_id: Whole
    file_name: str
    segments_info: list[SegmentEntry]


class CategoryEntry(Struct):
    id: Whole
    name: str
    isthing: int | bool


class PanopticFile(Struct):
    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    categories: list[CategoryEntry]


class Entry(Struct, gc=False):
    """One image of the data set."""

    file: int  # which of the annotation files it is from
    image_id: int
    image: ImageEntry
    annotation: AnnotationEntry


class PanopticDataset(Dataset[Sample]):
    """The images of COCO panoptic files, in the files' order; images without things are kept or not.

    Samples have the things' segments as objects, and the class of each pixel of things and stuff as `semantic`.
    """

    def __init__(
        self,
        images: Sequence[str | Path],
        annotations: Sequence[str | Path],
        *,
        limit: int | None = None,
        keep_empty: bool = True,
    ) -> None:
        self.annotation_files = as_paths(annotations)
        self.folders = pair_folders(as_paths(images), self.annotation_files)
        files = [read_panoptic(path) for path in self.annotation_files]
        self.categories = _categories(files[0], self.annotation_files[0])
        for file, path in zip(files, self.annotation_files, strict=True):
            if _categories(file, path) != self.categories:
                raise UserError(
                    f"{path}: its categories are not those of {self.annotation_files[0]}, a union needs the same"
                )
            stop_at_fatal(path, check_segments(file))
        self.class_names = tuple(category.name for category in self.categories)
        self.category_ids = tuple(category.id for category in self.categories)
        self.thing_count = sum(bool(category.isthing) for category in self.categories)
        self._labels = {identity: label for label, identity in enumerate(self.category_ids)}
        entries = _joined(files)
        if not keep_empty:
            entries = [each for each in entries if any(map(self._is_object, each.annotation.segments_info))]
        entries = entries[:limit]
        if not entries:
            problem = "no image" if keep_empty else "no image with things"
            raise UserError(f"{', '.join(map(str, self.annotation_files))}: {problem} in it; nothing to load")
        self._check_files(entries)
        self.image_ids: Int = np.array([each.image_id for each in entries], np.int64)
        self.sizes = np.array([(each.image.height, each.image.width) for each in entries], np.int32)
        # text in one buffer instead of objects, so that loader workers share it
        texts = [msgspec.json.encode(each) for each in entries]
        self._text, self._ends = np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)])

    def _is_object(self, segment: SegmentEntry) -> bool:
        return self._labels[segment.category_id] < self.thing_count and not segment.iscrowd

    def _check_files(self, entries: list[Entry]) -> None:
        for at, (folder, file) in enumerate(zip(self.folders, self.annotation_files, strict=True)):
            own = [each for each in entries if each.file == at]
            names = [each.image.file_name for each in own], [each.annotation.file_name for each in own]
            for where, listed in zip((folder, existing_picture_folder(file)), names, strict=True):
                stop_at_fatal(file, check_files(where, [each.image_id for each in own], listed))

    def __len__(self) -> int:
        return len(self.image_ids)

    def entry(self, index: int) -> Entry:
        index %= len(self)
        return msgspec.json.decode(self._text[self._ends[index] : self._ends[index + 1]].tobytes(), type=Entry)

    def path(self, index: int) -> Path:
        entry = self.entry(index)
        return self.folders[entry.file] / entry.image.file_name

    def picture_path(self, index: int) -> Path:
        """The panoptic PNG."""
        entry = self.entry(index)
        return picture_folder(self.annotation_files[entry.file]) / entry.annotation.file_name

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        height, width = self.sizes[index].tolist()
        path, root = self.path(index), self.folders[self.entry(index).file].resolve()
        if not leads_inside(path, root):
            raise UserError(f"{path}: leads out of the images folder {root}; use a path inside of it")
        image = check_image(path, height, width)
        segments = self.segments(index)
        labels, crowd = self.segment_labels(index), self.segment_crowd(index)
        semantic = np.append(labels, UNLABELLED)[segments].astype(np.uint8)
        things, masks = self.things(index, segments)
        boxes = rle.boxes(rle.encode(masks)).astype(np.float32)  # x, y, width, height
        boxes[:, 2:] += boxes[:, :2]
        identity = int(self.image_ids[index])
        return Sample(image, boxes, labels[things], masks, crowd[things], None, identity, path, semantic)

    def things(self, index: int, segments: Int) -> tuple[list[int], NDArray[np.bool_]]:
        """Of the map of an image's segments, the things that have pixels: their positions, and masks [n, H, W]."""
        listed = np.flatnonzero(self.segment_labels(index) < self.thing_count).tolist()
        things = [at for at in listed if (segments == at).any()]
        return things, segments == np.array(things, np.int64)[:, None, None]

    def segments(self, index: int) -> Int:
        """[H, W]: the position of each pixel's segment in the JSON entry's list; -1 where there is none."""
        entry, path = self.entry(index), self.picture_path(index)
        file = self.annotation_files[entry.file]
        if not leads_inside(path, folder := picture_folder(file).resolve()):
            raise UserError(f"{path}: leads out of the folder {folder}; use a path inside of it")
        ids = read_ids(path)
        if ids.shape != tuple(self.sizes[index]):
            raise UserError(
                f"{path}: the PNG is {ids.shape[1]} x {ids.shape[0]}, but its image "
                f"{self.sizes[index, 1]} x {self.sizes[index, 0]}; write it again at the image's size"
            )
        found = find_among(ids, np.array([segment.id for segment in entry.annotation.segments_info], np.int64))
        stray = np.flatnonzero((found < 0) & (ids != VOID))
        if len(stray):
            raise UserError(f"{path}: segment {ids.flat[stray[0]]} is not in {file}; correct one of them")
        return found

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        """The objects' outlines: a PNG has none."""
        return [[] for _ in np.flatnonzero(self.segment_labels(index) < self.thing_count)]

    def annotations_json(self) -> dict[str, Any]:
        """What panoptic quality needs of exactly these images, as COCO has it; ids as in a single file."""
        annotations = []
        for index in range(len(self)):
            entry = self.entry(index)
            content = msgspec.to_builtins(entry.annotation) | {"image_id": entry.image_id}
            for segment in content["segments_info"]:
                segment["iscrowd"] = int(segment["iscrowd"])
            annotations.append(content)
        categories = [
            {"id": category.id, "name": category.name, "isthing": int(category.isthing)} for category in self.categories
        ]
        return {"annotations": annotations, "categories": categories}

    def segment_labels(self, index: int) -> Int:
        """The classes of an image's segments, in the order of the JSON entry's list."""
        segments = self.entry(index).annotation.segments_info
        return np.array([self._labels[segment.category_id] for segment in segments], np.int64)

    def segment_crowd(self, index: int) -> NDArray[np.bool_]:
        """Which of them hold many objects."""
        return np.array([bool(segment.iscrowd) for segment in self.entry(index).annotation.segments_info], bool)


def _joined(files: Sequence[PanopticFile]) -> list[Entry]:
    """The images of all files in their order; those of a union are numbered anew."""
    entries: list[Entry] = []
    for at, file in enumerate(files):
        annotations = {annotation.image_id: annotation for annotation in file.annotations}
        for image in file.images:
            identity = image.id if len(files) == 1 else len(entries) + 1
            entries.append(Entry(at, identity, image, annotations[image.id]))
    return entries


def picture_folder(annotations: Path) -> Path:
    """Where the PNGs of a panoptic JSON lie."""
    return annotations.with_suffix("")


def existing_picture_folder(annotations: Path) -> Path:
    folder = picture_folder(annotations)
    if not folder.is_dir() and folder_of(folder) is None:
        raise UserError(
            f"{folder}: no such folder; the PNGs of {annotations.name} belong beside it into a folder of its name "
            f"without .json, so rename theirs to {folder.name}"
        )
    return folder


def read_panoptic(path: Path) -> PanopticFile:
    return read_as(path, PanopticFile, "a file in COCO's panoptic format")


def _categories(file: PanopticFile, path: Path) -> list[CategoryEntry]:
    """Things, then stuff, each by id."""
    if len(file.categories) > UNLABELLED:
        raise UserError(f"{path}: {len(file.categories)} categories; at most {UNLABELLED} can be told apart")
    return sorted(file.categories, key=lambda category: (not category.isthing, category.id))


def check_segments(file: PanopticFile) -> list[Fault]:
    """What would make training or scoring wrong."""
    faults = []

    def fault(kind: str, where: str, problem: str, remedy: str) -> None:
        faults.append(Fault("fatal", kind, where, problem, remedy))

    images = [image.id for image in file.images]
    annotated = {annotation.image_id for annotation in file.annotations}
    for kind, ids in (
        ("image", images),
        ("category", [category.id for category in file.categories]),
        ("annotation of image", [annotation.image_id for annotation in file.annotations]),
    ):
        for value in _repeated(ids):
            fault("duplicate id", f"{kind} {value}", "several entries with this id", "give each its own id")
    for value in sorted(annotated - set(images)):
        problem = "its image is not among the file's images"
        fault("unknown image", f"annotation of image {value}", problem, "add the image or remove the annotation")
    for value in sorted(set(images) - annotated):
        fault("no annotation", f"image {value}", "it has no annotation", "add one or remove the image")
    known = {category.id for category in file.categories}
    for annotation in file.annotations:
        where = f"annotation of image {annotation.image_id}"
        ids = [segment.id for segment in annotation.segments_info]
        for value in _repeated(ids):
            fault("duplicate segment", where, f"segment {value} occurs twice", "give each its own id")
        for segment in annotation.segments_info:
            if segment.category_id not in known:
                problem = f"segment {segment.id} has the unknown category_id {segment.category_id}"
                fault("unknown category", where, problem, "add the category or correct it")
            if not VOID < segment.id < IDS:
                problem = f"segment id {segment.id} is not R + 256 G + 65536 B, between 1 and {IDS - 1}"
                fault("bad id", where, problem, "number the segments anew, in the PNG too")
            if segment.area < 0 or segment.area % 1:
                problem = f"the area of segment {segment.id} is {segment.area:g}, not a number of pixels"
                fault("bad area", where, problem, "count them (--fix of scripts/check_dataset.py does)")
    return faults


def _repeated(ids: Sequence[int]) -> list[int]:
    if len(set(ids)) == len(ids):
        return []
    values, counts = np.unique(np.array(ids), return_counts=True)
    return [int(value) for value in values[counts > 1]]


def open_panoptic(data: Data, split: shapes.Split, settings: Training) -> PanopticDataset:
    """The training or validation set that the configuration names; without annotations, the built-in one."""
    return open_as(PanopticDataset, shapes.fill_in(data, split, annotations="panoptic"), split, settings)
