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
from common.data.annotation_files import decode_as, find_among, read_as
from common.data.batches import UNLABELLED
from common.data.coco import Sample
from common.data.images import read_ids
from common.errors import UserError
from common.files import leads_inside
from refinemask_psg.psg import files
from refinemask_psg.psg.files import Annotation

SMALLEST_SIDE = 32  # narrower images are not trained on
Split = Literal["train", "val"]
Int = NDArray[np.int64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentTable:
    """The segments of one image that have an extent."""

    ids: Int  # [S] in the panoptic PNG
    labels: Int  # [S] index into class_names
    boxes: NDArray[np.float32]  # [S, 4] x1, y1, x2, y2
    crowd: NDArray[np.bool_]  # [S]
    is_thing: NDArray[np.bool_]  # [S]
    places: Int  # [S] in the file's list

    def rows(self, segment_map: Int) -> Int:
        """[H, W]: which of the segments a pixel belongs to; -1: none of them."""
        return find_among(segment_map, self.ids)


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
        for index, annotation in enumerate(content.annotations):
            self._check(annotation, by_id, f"{self.file}: annotations[{index}] (image_id {annotation.image_id})")
            if keep_empty or self._worth_training(annotation, by_id[annotation.image_id]):
                kept.append(annotation)
            if limit and len(kept) == limit:
                break
        if not kept:
            raise UserError(f"{self.file}: no image in it to use; check the file and the split ({split})")
        listed = [by_id[annotation.image_id] for annotation in kept]
        self.image_ids = np.array([image.id for image in listed], np.int64)
        self.sizes = np.array([(image.height, image.width) for image in listed], np.int32)
        self._names = np.array([image.file_name.encode() for image in listed])
        # text in one buffer instead of objects, so that worker processes share it
        texts = [msgspec.json.encode(annotation) for annotation in kept]
        self._text, self._ends = np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)])

    def _name_classes(self, content: files.PreparedFile) -> None:
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
        self.predicate_names = tuple(predicate.name for predicate in content.relations_categories)

    def _check(self, annotation: Annotation, images: dict[int, files.Image], where: str) -> None:
        if annotation.image_id not in images:
            raise UserError(f"{where}: its image_id is not among the file's images; add the image or remove it")
        segments = [(segment.id, segment.category_id) for segment in annotation.segments_info]
        predicates = range(len(self.predicate_names))
        faults = files.entry_faults(segments, annotation.relations, 1, len(self.class_names), predicates)
        paths = map(files.path_fault, (annotation.file_name, images[annotation.image_id].file_name))
        if problem := next(faults, None) or next(filter(None, paths), None):
            raise UserError(f"{where}: {problem}; correct the entry or remove it")

    def _worth_training(self, annotation: Annotation, image: files.Image) -> bool:
        things = [self.is_thing[segment.category_id - 1] for segment in annotation.segments_info]
        return min(image.height, image.width) >= SMALLEST_SIDE and any(things)

    def __len__(self) -> int:
        return len(self.image_ids)

    def annotation(self, index: int) -> Annotation:
        return msgspec.json.decode(self._text[self._ends[index] : self._ends[index + 1]].tobytes(), type=Annotation)

    def path(self, index: int) -> Path:
        return self.folder / bytes(self._names[index]).decode()

    def panoptic_path(self, index: int) -> Path:
        return self.folder / self.annotation(index).file_name

    def relations(self, index: int) -> Int:
        """[R, 3] subject, object, predicate: as in the file, with places in its list of segments."""
        return np.array(self.annotation(index).relations, np.int64).reshape(-1, 3)

    def relations_between(self, index: int, places: Int) -> Int:
        """Those between the segments at these places in the file's list, numbered in this order instead."""
        relations = self.relations(index)
        numbers = np.full(len(self.annotation(index).segments_info), -1)
        numbers[places] = np.arange(len(places))
        renumbered = np.concatenate((numbers[relations[:, :2]], relations[:, 2:]), axis=1)
        return renumbered[(renumbered >= 0).all(axis=1)]

    def segments(self, index: int) -> SegmentTable:
        listed = self.annotation(index).segments_info
        boxes = np.array([segment.bbox for segment in listed], np.float32).reshape(-1, 4)
        areas = np.array([segment.area for segment in listed], np.float64)
        places = np.flatnonzero((areas > 0) & (boxes[:, 2:] >= 1).all(axis=1))
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([listed[place].category_id - 1 for place in places], np.int64)
        return SegmentTable(
            ids=np.array([listed[place].id for place in places], np.int64),
            labels=labels,
            boxes=boxes[places],
            crowd=np.array([listed[place].iscrowd == 1 for place in places], bool),
            is_thing=self.is_thing[labels],
            places=places,
        )

    def segment_map(self, index: int) -> Int:
        """[H, W]: the segment id of each pixel."""
        path, size = self._inside(self.panoptic_path(index)), tuple(self.sizes[index].tolist())
        ids = read_ids(path)
        if ids.shape != size:
            raise UserError(f"{path}: is {ids.shape[1]} x {ids.shape[0]}, but its image {size[1]} x {size[0]}")
        return ids

    def semantic(self, table: SegmentTable, segment_map: Int) -> NDArray[np.uint8]:
        """[H, W]: the class of each pixel."""
        return np.append(table.labels, UNLABELLED)[table.rows(segment_map)].astype(np.uint8)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        image = check_image(self._inside(self.path(index)), *self.sizes[index].tolist())
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
            semantic=self.semantic(table, segment_map),
            relations=self.relations(index)
            if self.original_faults
            else self.relations_between(index, table.places[~crowd]),
        )

    def _inside(self, path: Path) -> Path:
        if not leads_inside(path, self.folder.resolve()):
            raise UserError(f"{path}: leads out of {self.folder}; use a path inside of it")
        return path

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        """Segments are pixels here: no object has an outline."""
        return [[] for _ in self.segments(index).ids]


def read_prepared(path: Path, split: Split) -> files.PreparedFile:
    """A prepared file, or the split of a competition's file as it would be prepared."""
    keys = read_as(path, dict[str, msgspec.Raw], files.EXPECTED)
    if "data" in keys:
        psg = files.read_psg(path)
        content = msgspec.json.encode(files.panoptic_file(psg, psg.split()[split == "val"]))
        return decode_as(content, files.PreparedFile, str(path), files.EXPECTED)
    if "relations_categories" not in keys:
        raise UserError(f"{path}: has no relations_categories; expected a file of scripts/prepare_psg.py or PSG's own")
    return read_as(path, files.PreparedFile, "a prepared PSG file")
