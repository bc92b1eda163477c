"""PSG's images with their panoptic segments and relations, from prepared files or straight from the competition's.

- The objects of a sample are its segments, things and stuff, in the annotations' order. Crowds are no objects.
- A segment without extent is left out, and so are relations to what is left out; the others keep their segments.
- `original_faults` leaves the relations' indices as they are in the file, whatever was left out.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.data.annotation_checks import check_image
from common.data.annotation_files import Side, Whole
from common.data.batches import UNLABELLED
from common.data.coco import Sample
from common.data.images import read_ids
from common.errors import UserError
from common.files import leads_inside
from refinemask_psg.psg.files import Number, decode, entry_faults, panoptic_file, path_fault, read_bytes, read_psg

SMALLEST_SIDE = 32  # narrower images are not trained on
Split = Literal["train", "val"]
Int = NDArray[np.int64]
log = logging.getLogger(__name__)


class _Segment(msgspec.Struct):
    id: Whole
    category_id: Whole
    bbox: tuple[Number, Number, Number, Number]  # x, y, width, height
    area: Number
    iscrowd: int = 0


class _Annotation(msgspec.Struct):
    segments_info: list[_Segment]
    file_name: str
    image_id: Whole
    relations: list[tuple[Whole, Whole, Whole]] = []


class _Image(msgspec.Struct):
    id: Whole
    file_name: str
    height: Side
    width: Side


class _Category(msgspec.Struct):
    id: Whole
    name: str
    isthing: int = 1


class _Prepared(msgspec.Struct):
    images: list[_Image]
    annotations: list[msgspec.Raw]
    categories: list[_Category]
    relations_categories: list[_Category]


@dataclass(frozen=True)
class SegmentTable:
    """The segments of one image that have an extent."""

    ids: Int  # [S] in the panoptic PNG
    labels: Int  # [S] index into class_names
    boxes: NDArray[np.float32]  # [S, 4] x1, y1, x2, y2
    crowd: NDArray[np.bool_]  # [S]
    is_thing: NDArray[np.bool_]  # [S]
    places: Int  # [S] in the file's list


class PsgDataset(Dataset[Sample]):
    """The images of PSG files in their order; image and panoptic files are named relative to the folders."""

    def __init__(
        self,
        images: Sequence[str | Path],
        annotations: Sequence[str | Path],
        split: Split,
        *,
        limit: int | None = None,
        keep_empty: bool = True,
        original_faults: bool = False,
    ) -> None:
        if len(images) != 1 or len(annotations) != 1:
            raise UserError(
                f"{len(images)} image folders and {len(annotations)} files: a PSG data set is one file, "
                "and the folder that its file names start from"
            )
        self.folder, self.file = Path(images[0]), Path(annotations[0])
        self.annotation_files, self.original_faults = [self.file], original_faults
        content = read_prepared(self.file, split)
        self._name_classes(content)
        by_id = {image.id: image for image in content.images}
        kept = []
        for index, raw in enumerate(content.annotations):
            annotation = decode(raw, _Annotation, f"{self.file}: annotations[{index}]", "a prepared PSG file")
            self._check(annotation, by_id, f"{self.file}: annotations[{index}] (image_id {annotation.image_id})")
            if keep_empty or self._worth_training(annotation, by_id[annotation.image_id]):
                kept.append(annotation)
            if limit and len(kept) == limit:
                break
        if not kept:
            raise UserError(f"{self.file}: no image in it to use; check the file and the split ({split})")
        self._store(kept, [by_id[annotation.image_id] for annotation in kept])

    def _name_classes(self, content: _Prepared) -> None:
        listed = content.categories
        ids = [category.id for category in listed]
        if ids != list(range(1, len(ids) + 1)) or not any(category.isthing for category in listed):
            raise UserError(f"{self.file}: category ids are not 1, 2, ..; prepare it with scripts/prepare_psg.py")
        self.category_ids = tuple(ids)
        things = [bool(category.isthing) for category in listed]
        self.thing_count = max(index for index, thing in enumerate(things) if thing) + 1
        names = [category.name for category in listed]
        if not all(things[: self.thing_count]) and not self.original_faults:
            # the original's files say " truck" and mean the thing "truck"
            wrong = [names[index] for index in range(self.thing_count) if not things[index]]
            log.warning("%s: %s between things is taken for a thing, too", self.file, wrong)
            names = [name.strip() for name in names]
            things = [index < self.thing_count for index in range(len(names))]
        self.class_names, self.is_thing = tuple(names), np.array(things, bool)
        self.predicate_names = tuple(category.name for category in content.relations_categories)

    def _check(self, annotation: _Annotation, images: dict[int, _Image], where: str) -> None:
        if annotation.image_id not in images:
            raise UserError(f"{where}: its image_id is not among the file's images; add the image or remove it")
        segments = [(segment.id, segment.category_id) for segment in annotation.segments_info]
        predicates = range(len(self.predicate_names))
        problem = next(entry_faults(segments, annotation.relations, 1, len(self.class_names), predicates), None)
        for name in (annotation.file_name, images[annotation.image_id].file_name):
            problem = problem or path_fault(name)
        if problem:
            raise UserError(f"{where}: {problem}; correct the entry or remove it")

    def _worth_training(self, annotation: _Annotation, image: _Image) -> bool:
        things = [self.is_thing[segment.category_id - 1] for segment in annotation.segments_info]
        return min(image.height, image.width) >= SMALLEST_SIDE and any(things)

    def _store(self, annotations: list[_Annotation], images: list[_Image]) -> None:
        """Arrays instead of objects, so that worker processes share them."""
        self.image_ids = np.array([image.id for image in images], np.int64)
        self.sizes = np.array([(image.height, image.width) for image in images], np.int32)
        self._names = np.array([image.file_name.encode() for image in images])
        self._panoptic_names = np.array([annotation.file_name.encode() for annotation in annotations])
        segments = [segment for annotation in annotations for segment in annotation.segments_info]
        self._offsets = _offsets([len(annotation.segments_info) for annotation in annotations])
        self._ids = np.array([segment.id for segment in segments], np.int64)
        self._labels = np.array([segment.category_id - 1 for segment in segments], np.int64)
        self._boxes = np.array([segment.bbox for segment in segments], np.float32).reshape(-1, 4)
        self._areas = np.array([segment.area for segment in segments], np.float64)
        self._crowd = np.array([segment.iscrowd == 1 for segment in segments], bool)
        self._relation_offsets = _offsets([len(annotation.relations) for annotation in annotations])
        rows = [row for annotation in annotations for row in annotation.relations]
        self._relations = np.array(rows, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, index: int) -> Path:
        return self.folder / bytes(self._names[index]).decode()

    def panoptic_path(self, index: int) -> Path:
        return self.folder / bytes(self._panoptic_names[index]).decode()

    def relations(self, index: int) -> Int:
        """[R, 3] subject, object, predicate: as in the file, with places in its list of segments."""
        return self._relations[self._relation_offsets[index] : self._relation_offsets[index + 1]]

    def segments(self, index: int) -> SegmentTable:
        own = slice(self._offsets[index], self._offsets[index + 1])
        boxes = self._boxes[own].copy()
        usable = (self._areas[own] > 0) & (boxes[:, 2:] >= 1).all(axis=1)
        boxes[:, 2:] += boxes[:, :2]
        labels = self._labels[own][usable]
        return SegmentTable(
            ids=self._ids[own][usable],
            labels=labels,
            boxes=boxes[usable],
            crowd=self._crowd[own][usable],
            is_thing=self.is_thing[labels],
            places=np.flatnonzero(usable),
        )

    def segment_map(self, index: int) -> Int:
        """[H, W]: the segment id of each pixel."""
        path, size = self.panoptic_path(index), tuple(self.sizes[index].tolist())
        if not leads_inside(path, self.folder.resolve()):
            raise UserError(f"{path}: leads out of {self.folder}; use a path inside of it")
        ids = read_ids(path)
        if ids.shape != size:
            raise UserError(f"{path}: is {ids.shape[1]} x {ids.shape[0]}, but its image {size[1]} x {size[0]}")
        return ids

    def semantic(self, index: int, table: SegmentTable, segment_map: Int) -> NDArray[np.uint8]:
        """[H, W]: the class of each pixel."""
        order = np.argsort(table.ids)
        known, labels = table.ids[order], table.labels[order]
        if not len(known):
            return np.full(segment_map.shape, UNLABELLED, np.uint8)
        place = np.minimum(np.searchsorted(known, segment_map), len(known) - 1)
        return np.where(known[place] == segment_map, labels[place], UNLABELLED).astype(np.uint8)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        if not leads_inside(self.path(index), self.folder.resolve()):
            raise UserError(f"{self.path(index)}: leads out of {self.folder}; use a path inside of it")
        image = check_image(self.path(index), *self.sizes[index].tolist())
        table, segment_map = self.segments(index), self.segment_map(index)
        crowd = table.crowd & table.is_thing
        return Sample(
            image=image,
            boxes=table.boxes,
            labels=table.labels,
            masks=segment_map == table.ids[:, None, None],
            crowd=crowd,
            keypoints=None,
            image_id=int(self.image_ids[index]),
            path=self.path(index),
            semantic=self.semantic(index, table, segment_map),
            relations=self._between_objects(index, table.places[~crowd]),
        )

    def _between_objects(self, index: int, places: Int) -> Int:
        """The image's relations with the objects' numbers instead of places in the file's list."""
        relations = self.relations(index)
        if self.original_faults:
            return relations.copy()
        numbers = np.full(int(self._offsets[index + 1] - self._offsets[index]), -1)
        numbers[places] = np.arange(len(places))
        renumbered = np.concatenate((numbers[relations[:, :2]], relations[:, 2:]), axis=1)
        return renumbered[(renumbered >= 0).all(axis=1)]

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        """Segments are pixels here: no object has an outline."""
        table = self.segments(index)
        return [[] for _ in range(len(table.ids))]


def read_prepared(path: Path, split: Split) -> _Prepared:
    """A prepared file, or the split of a competition's file as it would be prepared."""
    content = read_bytes(path)
    keys = decode(content, dict[str, msgspec.Raw], str(path), "a PSG file")
    if "data" in keys:
        psg = read_psg(path)
        content = msgspec.json.encode(panoptic_file(psg, psg.split()[split == "val"]))
    elif "relations_categories" not in keys:
        raise UserError(f"{path}: has no relations_categories; expected a file of scripts/prepare_psg.py or PSG's own")
    return decode(content, _Prepared, str(path), "a prepared PSG file")


def _offsets(counts: list[int]) -> Int:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
