"""What would waste a training, found in a second: compared are the training and the validation data."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from common.data.annotation_checks import check_boxes, check_ids
from common.data.annotation_files import NO_MASK, Annotations, RleEntry, Segmentation, read_columns
from common.data.coco import stop_at_fatal
from common.data.images import MAX_PIXELS
from common.data.picture_headers import FILE_BYTES
from common.errors import UserError
from common.files import read_bytes
from common.ops import masks as rle
from common.run.settings import Images
from maskworks.own_data.coco_files import Counted

SMALLEST = 8  # pixels: of an object's side at the network's size; two pixels of the finest features
MANY = 0.5  # the part of a class's objects below that, from which a training is stopped
SOME = 0.05  # and from which it is said

LOOKED_AT = 100  # objects, for being in one piece


@dataclass(frozen=True)
class Set:
    """One data set's columns, its faults refused, and where its pictures are."""

    a: Annotations
    folder: Path

    @property
    def class_names(self) -> list[str]:
        return [category.name for category in self.a.categories]

    def objects(self) -> int:
        return int(self.a.usable.sum())

    def counted(self) -> Counted:
        """What is looked at of data of any kind."""
        counts = np.bincount(self.a.labels[self.a.usable], minlength=len(self.class_names)).tolist()
        pictures = [self.folder / name for name in self.a.file_names]
        return Counted(pictures, dict(zip(self.class_names, counts, strict=True)))

    def counts(self) -> NDArray[np.int64]:
        """The objects of each picture."""
        return np.bincount(self.a.image_index[self.a.usable], minlength=len(self.a.image_ids))

    def in_one_piece(self) -> float:
        """How large a part of the objects is a single part of touching pixels each, by some from all over the file."""
        own = np.flatnonzero(self.a.usable & ~self.a.crowd & (self.a.kinds != NO_MASK))
        some = own[np.linspace(0, len(own) - 1, min(LOOKED_AT, len(own))).astype(int)].tolist()
        sizes = self.a.sizes[self.a.image_index[some]].tolist()
        whole = [is_whole(self.a.segmentation(at), *size) for at, size in zip(some, sizes, strict=True)]
        return sum(whole) / len(whole) if whole else 0.0


def is_whole(segmentation: Segmentation, height: int, width: int) -> bool:
    """Whether a segmentation is of one part; several polygons count as several, touching or not."""
    if not isinstance(segmentation, RleEntry):
        return len(segmentation or ()) == 1
    counts = segmentation.counts
    try:
        code = rle.from_counts(counts, height, width) if isinstance(counts, list) else None
        mask = rle.decode([code or {"size": [height, width], "counts": counts}])[0]
    except UserError:
        return False  # the loader names it
    return bool(cv2.connectedComponents(mask.view(np.uint8))[0] == 2)  # the background and one more


def opened(named: Images) -> Set:
    file = Path(named.annotations[0])
    annotations, faults = read_columns(file)
    stop_at_fatal(file, faults + check_ids(annotations) + check_boxes(annotations))  # masks are checked by the loader
    return Set(annotations, Path(named.images[0]))


def wasted(train: Set, val: Set, masks: bool = True) -> list[str]:
    """A line for each reason not to begin."""
    found = wasted_by(train.counted(), val.counted())
    if masks and train.objects() and (train.a.kinds[train.a.usable] == NO_MASK).all():
        found.append("the objects have boxes and no masks; outline them, or take boxes for masks: --data.rectangles")
    return found


def wasted_by(train: Counted, val: Counted, what: str = "object") -> list[str]:
    """The reasons that the pictures give, and the classes."""
    classes = [list(own.segments) for own in (train, val)]
    if classes[0] != classes[1]:
        return [f"the classes are not the same in the same order: {classes[0]} to train, {classes[1]} after"]
    found = []
    if without := [name for name, count in train.segments.items() if not count]:
        found.append(f"no {what} to learn from: of {', '.join(without)}; add some, or take the class out")
    if not sum(val.segments.values()):
        found.append(f"the validation pictures have no {what}, so no score would say anything; add some")
    if shared := shared_pictures(train.pictures, val.pictures):
        more = f" and {len(shared) - 3} more" if shared[3:] else ""
        found.append(
            f"pictures that train and validate: {', '.join(shared[:3])}{more}; take them out of one of the two"
        )
    return found


def shared_pictures(train: list[Path], val: list[Path]) -> list[str]:
    """Pictures of the same content; only those are read whose file is as long as one of the other set."""
    lengths = [[path.stat().st_size if path.is_file() else -1 for path in own] for own in (train, val)]
    both = set(lengths[0]) & set(lengths[1]) - {-1}  # missing: named later
    trained = {_digest(path): path for path, length in zip(train, lengths[0], strict=True) if length in both}
    candidates = [path for path, length in zip(val, lengths[1], strict=True) if length in both]
    pairs = [(path, trained.get(_digest(path))) for path in candidates]
    return [f"{path.name} (as {other.name})" for path, other in pairs if other is not None]


def too_small(train: Set, scale: NDArray[np.float64]) -> dict[str, float]:
    """Class -> the part of its objects that all but vanish; `scale` is that of each picture."""
    own = np.flatnonzero(train.a.usable)
    sides = np.sqrt(train.a.boxes[own, 2:].prod(axis=1)) * scale[train.a.image_index[own]]
    labels = train.a.labels[own]
    parts = {name: sides[labels == at] < SMALLEST for at, name in enumerate(train.class_names)}
    return {name: float(small.mean()) for name, small in parts.items() if len(small)}


def _digest(path: Path) -> bytes:
    return hashlib.sha256(read_bytes(path, FILE_BYTES * MAX_PIXELS / 1e6)).digest()
