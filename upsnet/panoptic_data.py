"""PanopticDataset: COCO-format panoptic JSON, its PNGs and the images; checked while loading, decoded on demand.

- Classes are numbered things first, then stuff, each by category id, so that a thing's label is its class.
- Everything is in numpy columns, so that loader workers share it and grow by nothing.
- A file's PNGs lie in the folder that is named like it, without ".json", as COCO has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct, ValidationError
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.data.annotation_checks import check_files, check_image
from common.data.annotation_files import Fault, Int, Side, Whole
from common.data.batches import UNLABELLED
from common.data.coco import Sample, as_paths, pair_folders, stop_at_fatal
from common.data.images import read_ids
from common.errors import UserError
from common.files import leads_inside
from common.metrics.panoptic import IDS, VOID
from common.run.commands import files_of
from common.run.settings import Data, Training


class ImageEntry(Struct, gc=False):
    id: Whole
    file_name: str
    width: Side
    height: Side


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


@dataclass
class _Columns:
    """One file; images in its order, each with its segments."""

    names: list[str]  # [I] of the images
    pictures: list[str]  # [I] of the PNGs
    image_ids: Int  # [I]
    sizes: NDArray[np.int32]  # [I, 2] height, width
    counts: Int  # [I] segments of each image
    ids: Int  # [S] R + 256 G + 65536 B
    categories: Int  # [S]
    areas: NDArray[np.float64]  # [S]
    crowd: NDArray[np.bool_]  # [S]


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
        self.class_names = tuple(category.name for category in self.categories)
        self.category_ids = tuple(category.id for category in self.categories)
        self.thing_count = sum(bool(category.isthing) for category in self.categories)
        self._join([_columns(file, path) for file, path in zip(files, self.annotation_files, strict=True)])
        self._select(limit, keep_empty)
        self._check_files()

    def _join(self, files: list[_Columns]) -> None:
        self._file_of = np.repeat(np.arange(len(files)), [len(file.names) for file in files])
        self._names = _Names(list(chain.from_iterable(file.names for file in files)))
        self._pictures = _Names(list(chain.from_iterable(file.pictures for file in files)))
        single = len(files) == 1
        self.image_ids: Int = files[0].image_ids if single else np.arange(1, len(self._file_of) + 1)
        self.sizes: NDArray[np.int32] = np.concatenate([file.sizes for file in files])
        counts = np.concatenate([file.counts for file in files])
        self._offsets = np.concatenate(([0], counts.cumsum()))
        self._ids = np.concatenate([file.ids for file in files])
        self._areas = np.concatenate([file.areas for file in files])
        self._crowd = np.concatenate([file.crowd for file in files])
        order = np.argsort(self.category_ids)
        categories = np.concatenate([file.categories for file in files])
        self._labels = order[np.searchsorted(np.array(self.category_ids)[order], categories)]

    def _select(self, limit: int | None, keep_empty: bool) -> None:
        """Choose the images to have; rows of all columns stay where they are."""
        objects = (self._labels < self.thing_count) & ~self._crowd
        image = np.repeat(np.arange(len(self._file_of)), np.diff(self._offsets))
        counts = np.bincount(image[objects], minlength=len(self._file_of))
        kept = np.arange(len(self._file_of)) if keep_empty else np.flatnonzero(counts)
        self._row = kept[:limit]
        if not len(self._row):
            problem = "no image" if keep_empty else "no image with things"
            raise UserError(f"{', '.join(map(str, self.annotation_files))}: {problem} in it; nothing to load")
        self.image_ids, self.sizes = self.image_ids[self._row], self.sizes[self._row]

    def _check_files(self) -> None:
        for at, (folder, file) in enumerate(zip(self.folders, self.annotation_files, strict=True)):
            chosen = self._row[self._file_of[self._row] == at].tolist()
            ids = self.image_ids[self._file_of[self._row] == at].tolist()
            for where, names in ((folder, self._names), (existing_picture_folder(file), self._pictures)):
                stop_at_fatal(file, check_files(where, ids, (names[row] for row in chosen)))

    def __len__(self) -> int:
        return len(self._row)

    def path(self, index: int) -> Path:
        row = self._row[index]
        return self.folders[int(self._file_of[row])] / self._names[row]

    def picture_path(self, index: int) -> Path:
        """The panoptic PNG."""
        row = self._row[index]
        return picture_folder(self.annotation_files[self._file_of[row]]) / self._pictures[row]

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        height, width = self.sizes[index].tolist()
        path, root = self.path(index), self.folders[self._file_of[self._row[index]]].resolve()
        if not leads_inside(path, root):
            raise UserError(f"{path}: leads out of the images folder {root}; use a path inside of it")
        image = check_image(path, height, width)
        segments = self.segments(index)
        labels, crowd = self.segment_labels(index), self.segment_crowd(index)
        semantic = np.append(labels, UNLABELLED)[segments].astype(np.uint8)
        things = [at for at in np.flatnonzero(labels < self.thing_count).tolist() if (segments == at).any()]
        masks = np.stack([segments == at for at in things]) if things else np.zeros((0, height, width), bool)
        return Sample(
            image,
            boxes_of(masks),
            labels[things],
            masks,
            crowd[things],
            None,
            int(self.image_ids[index]),
            path,
            semantic,
        )

    def segments(self, index: int) -> Int:
        """[H, W]: the position of each pixel's segment in the JSON entry's list; -1 where there is none."""
        path = self.picture_path(index)
        folder = path.parents[self._pictures[self._row[index]].count("/")].resolve()
        if not leads_inside(path, folder):
            raise UserError(f"{path}: leads out of the folder {folder}; use a path inside of it")
        ids = read_ids(path)
        if ids.shape != tuple(self.sizes[index]):
            raise UserError(
                f"{path}: the PNG is {ids.shape[1]} x {ids.shape[0]}, but its image "
                f"{self.sizes[index, 1]} x {self.sizes[index, 0]}; write it again at the image's size"
            )
        own = np.append(self._ids[self._own(index)], VOID)
        order = np.argsort(own)
        found = order[np.searchsorted(own[order], ids).clip(max=len(own) - 1)]
        stray = np.flatnonzero(own[found] != ids)
        if len(stray):
            file = self.annotation_files[self._file_of[self._row[index]]]
            raise UserError(f"{path}: segment {ids.flat[stray[0]]} is not in {file}; correct one of them")
        return np.where(found == len(own) - 1, -1, found)

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        """The objects' outlines: a PNG has none."""
        return [[] for _ in np.flatnonzero(self.segment_labels(index) < self.thing_count)]

    def annotations_json(self) -> dict[str, Any]:
        """What panoptic quality needs of exactly these images, as COCO has it; ids as in a single file."""
        annotations = []
        for index, image_id in enumerate(self.image_ids.tolist()):
            own = self._own(index)
            columns = (self._ids[own], self._labels[own], self._areas[own], self._crowd[own])
            segments = [
                {"id": number, "category_id": self.category_ids[label], "area": area, "iscrowd": int(crowd)}
                for number, label, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
            ]
            name = self._pictures[self._row[index]]
            annotations.append({"image_id": image_id, "file_name": name, "segments_info": segments})
        categories = [
            {"id": category.id, "name": category.name, "isthing": int(category.isthing)} for category in self.categories
        ]
        return {"annotations": annotations, "categories": categories}

    def segment_labels(self, index: int) -> Int:
        """The classes of an image's segments, in the order of the JSON entry's list."""
        return self._labels[self._own(index)]

    def segment_crowd(self, index: int) -> NDArray[np.bool_]:
        """Which of them hold many objects."""
        return self._crowd[self._own(index)]

    def _own(self, index: int) -> slice:
        """The rows of an image's segments."""
        row = self._row[index]
        return slice(int(self._offsets[row]), int(self._offsets[row + 1]))


class _Names:
    """Strings in one buffer."""

    def __init__(self, names: list[str]) -> None:
        encoded = [name.encode() for name in names]
        self.text = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)])

    def __getitem__(self, index: int) -> str:
        return self.text[self.ends[index] : self.ends[index + 1]].tobytes().decode()


def picture_folder(annotations: Path) -> Path:
    """Where the PNGs of a panoptic JSON lie."""
    return annotations.with_suffix("")


def existing_picture_folder(annotations: Path) -> Path:
    folder = picture_folder(annotations)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; the PNGs of {annotations.name} belong beside it into a folder of its name "
            f"without .json, so rename theirs to {folder.name}"
        )
    return folder


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The boxes x1, y1, x2, y2 (x2 behind the last pixel) around masks [n, H, W] that are not empty."""
    columns: NDArray[np.bool_] = np.asarray(masks.any(axis=1))  # [n, W]
    rows: NDArray[np.bool_] = np.asarray(masks.any(axis=2))  # [n, H]
    left, top = columns.argmax(axis=1), rows.argmax(axis=1)
    right = masks.shape[2] - columns[:, ::-1].argmax(axis=1)
    bottom = masks.shape[1] - rows[:, ::-1].argmax(axis=1)
    return np.stack((left, top, right, bottom), axis=1).astype(np.float32)


def read_panoptic(path: Path) -> PanopticFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PanopticFile)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected a panoptic JSON") from error
    except ValidationError as error:
        raise UserError(f"{path}: not in COCO's panoptic format: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def _categories(file: PanopticFile, path: Path) -> list[CategoryEntry]:
    """Things, then stuff, each by id."""
    if len(file.categories) > UNLABELLED:
        raise UserError(f"{path}: {len(file.categories)} categories; at most {UNLABELLED} can be told apart")
    return sorted(file.categories, key=lambda category: (not category.isthing, category.id))


def _columns(file: PanopticFile, path: Path) -> _Columns:
    by_image = {annotation.image_id: annotation for annotation in file.annotations}
    stop_at_fatal(path, check_segments(file))
    annotations = [by_image[image.id] for image in file.images]
    segments = [segment for annotation in annotations for segment in annotation.segments_info]
    return _Columns(
        [image.file_name for image in file.images],
        [annotation.file_name for annotation in annotations],
        np.array([image.id for image in file.images], np.int64),
        np.array([(image.height, image.width) for image in file.images], np.int32).reshape(-1, 2),
        np.array([len(annotation.segments_info) for annotation in annotations], np.int64),
        np.array([segment.id for segment in segments], np.int64),
        np.array([segment.category_id for segment in segments], np.int64),
        np.array([segment.area for segment in segments], np.float64),
        np.array([bool(segment.iscrowd) for segment in segments], bool),
    )


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


def open_panoptic(data: Data, split: Literal["train", "val"], settings: Training) -> PanopticDataset:
    """The training or validation set that the configuration names."""
    images, annotations = files_of(data, split)
    keep_empty = data.keep_empty or split == "val"
    return PanopticDataset(images, annotations, limit=settings.limit or None, keep_empty=keep_empty)
