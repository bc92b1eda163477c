"""What the loader checks of annotations; what takes longer, maskworks/own_data/doctor.py checks when it is asked."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data import shards
from common.data.annotation_files import (
    FARTHEST,
    NO_MASK,
    RLE,
    Annotations,
    Fault,
    Int,
    RleEntry,
    Segmentation,
    read_columns,
)
from common.data.images import read_image
from common.errors import UserError
from common.files import leads_inside
from common.ops import masks as rle


def read_annotations(path: Path) -> tuple[Annotations, list[Fault]]:
    """A COCO-format file in columns, with all its faults; `usable` is false for annotations to leave out."""
    annotations, faults = read_columns(path)
    faults += check_ids(annotations) + check_boxes(annotations) + check_masks(annotations)
    return annotations, faults


def check_ids(a: Annotations) -> list[Fault]:
    """Ids that are not unique, that name nothing, and 0."""
    categories = np.array([category.id for category in a.categories], np.int64)
    faults = _duplicates(a.image_ids, "image") + _duplicates(categories, "category") + _duplicates(a.ids, "annotation")
    for unknown, kind, listed, remedy in (
        (a.image_index < 0, "image", "images", "add the image or remove the annotation"),
        (a.labels < 0, "category", "categories", "add the category or correct it"),
    ):
        problem = f"its {kind}_id is not among the file's {listed}"
        wrong = (f"annotation {a.ids[index]}" for index in np.flatnonzero(unknown))
        faults += [Fault("fatal", f"unknown {kind}", where, problem, remedy) for where in wrong]
    if (a.ids == 0).any():
        problem = "pycocotools counts an annotation with id 0 as missed even when it is found"
        faults.append(Fault("noted", "id 0", "annotation 0", problem, "number annotations from 1 (harmless here)"))
    return faults


def _duplicates(ids: Int, kind: str) -> list[Fault]:
    values, counts = np.unique(ids, return_counts=True)
    found = zip(values[counts > 1], counts[counts > 1], strict=True)
    said = ((f"{kind} {value}", f"{count} entries with this id") for value, count in found)
    return [Fault("fatal", f"duplicate {kind} id", *each, "give each its own id") for each in said]


def check_boxes(a: Annotations) -> list[Fault]:
    """Boxes and areas that are not finite, negative, without extent or outside of their image."""
    fatal, dropped = [], []
    size = a.sizes[a.image_index, ::-1] if len(a.sizes) else np.zeros((len(a.ids), 2), np.int32)
    corner, extent = a.boxes[:, :2], a.boxes[:, 2:]
    finite = (np.abs(a.boxes) <= FARTHEST).all(axis=1)
    with np.errstate(invalid="ignore"):
        outside = (corner >= size).any(axis=1) | (corner + extent <= 0).any(axis=1)
        negative, flat = (extent < 0).any(axis=1), (extent == 0).any(axis=1)
        bad_area = (a.areas < 0) | np.isinf(a.areas)
    for wrong, kind, problem in (
        (~finite, "NaN box", "is not finite, or out of range"),
        (finite & negative, "negative box", "has a negative width or height, expected x, y, width, height"),
    ):
        for index in np.flatnonzero(wrong):
            where, box = f"annotation {a.ids[index]}", a.boxes[index].tolist()
            fatal.append(Fault("fatal", kind, where, f"its bbox {box} {problem}", "correct its bbox"))
    for index in np.flatnonzero(bad_area):
        problem = f"its area is {a.areas[index]}, expected a number of pixels"
        fatal.append(Fault("fatal", "bad area", f"annotation {a.ids[index]}", problem, "correct its area"))
    degenerate = finite & ~negative & (flat | ((a.image_index >= 0) & outside))
    for index in np.flatnonzero(degenerate):
        problem = f"its bbox {a.boxes[index].tolist()} has no extent inside its image"
        remedy = "remove or correct it (it is left out)"
        dropped.append(Fault("dropped", "degenerate box", f"annotation {a.ids[index]}", problem, remedy))
    a.usable &= ~degenerate
    return fatal + dropped


def check_masks(a: Annotations) -> list[Fault]:
    """RLE that does not fit its image, and masks without a pixel (as far as shows without drawing)."""
    faults: list[Fault] = []
    empty = (a.kinds == NO_MASK) & bool((a.kinds != NO_MASK).any())  # a file of boxes only is as good
    coded = np.flatnonzero((a.kinds == RLE) & (a.image_index >= 0))
    for begin in range(0, len(coded), 1000):
        batch = coded[begin : begin + 1000]
        codes = [a.segmentation(index) for index in batch]
        for index, area in zip(batch, _areas(codes, a.sizes[a.image_index[batch]]), strict=True):
            if isinstance(area, str):
                faults.append(Fault("fatal", "bad RLE", f"annotation {a.ids[index]}", area, "encode it again"))
            else:
                empty[index] = area == 0
    for index in np.flatnonzero(empty):
        remedy = "remove it or give it a mask (it is left out)"
        faults.append(Fault("dropped", "empty mask", f"annotation {a.ids[index]}", "its mask has no pixel", remedy))
    a.usable &= ~empty
    return faults


def _areas(codes: Sequence[Segmentation], sizes: NDArray[np.int32]) -> list[int | str]:
    """Number of pixels of each RLE, or what is wrong with it."""
    answers: list[int | str] = [0] * len(codes)
    strings: dict[int, dict[str, Any]] = {}
    for at, (code, size) in enumerate(zip(codes, sizes.tolist(), strict=True)):
        assert isinstance(code, RleEntry)
        if isinstance(code.counts, list):
            counts = code.counts or [0]  # Python's numbers, which don't overflow
            if list(code.size) == size and min(counts) >= 0 and sum(counts) == size[0] * size[1]:
                answers[at] = sum(counts[1::2])
                continue
        strings[at] = {"size": list(code.size), "counts": code.counts}
    if rle.first_bad(list(strings.values()), [sizes[at].tolist() for at in strings]):  # then all of them are named
        faulty = {at: problem for at, entry in strings.items() if (problem := rle.check(entry, *sizes[at].tolist()))}
        answers = [faulty.get(at, answer) for at, answer in enumerate(answers)]
        strings = {at: entry for at, entry in strings.items() if at not in faulty}
    for at, area in zip(strings, rle.area(list(strings.values())), strict=True):
        answers[at] = int(area)
    return answers


def check_files(folder: Path, image_ids: Iterable[int], file_names: Iterable[str]) -> list[Fault]:
    """Images that are missing, or whose path leads out of their folder (also through a symbolic link)."""
    faults = []
    inventory = Inventory(folder)
    for image_id, name in zip(image_ids, file_names, strict=True):
        where = f"image {image_id} ({name[:100]!r})"
        if not inventory.is_inside(name):
            problem = f"its file_name leads out of the images folder {folder}"
            faults.append(Fault("fatal", "path outside", where, problem, "use a path inside of that folder"))
        elif not inventory.exists(name):
            problem = f"there is no such file in {folder}"
            faults.append(Fault("fatal", "missing image", where, problem, "add the image or correct the images folder"))
    return faults


class Inventory:
    """What is in a folder of images; its subfolders are listed once, instead of asking for each file."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir() and shards.folder_of(folder) is None:
            raise UserError(f"{folder}: no such folder of images; check the path")
        self.folder = folder
        self.root = folder.resolve()
        self.listed: dict[str, frozenset[str]] = {}

    def is_inside(self, name: str) -> bool:
        return name.rpartition("/")[2] in self._plain_files(name) or leads_inside(self.folder / name, self.root)

    def exists(self, name: str) -> bool:
        try:
            return name.rpartition("/")[2] in self._plain_files(name) or (self.folder / name).is_file()
        except OSError:
            return False

    def _plain_files(self, name: str) -> frozenset[str]:
        """The files beside this one, without links, if its folder is inside."""
        parent = name.rpartition("/")[0]
        if parent not in self.listed:
            path = (self.folder / name).parent
            self.listed[parent] = frozenset()
            if leads_inside(path, self.root):
                self.listed[parent] = shards.names(self.folder, parent)
                if path.is_dir():
                    with os.scandir(path) as entries:
                        self.listed[parent] |= {e.name for e in entries if e.is_file(follow_symlinks=False)}
        return self.listed[parent]


def check_image(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """The decoded image, if it is readable and of the size that the annotations say."""
    image = read_image(path)
    if image.shape[:2] != (height, width):
        raise UserError(
            f"{path}: the image is {image.shape[1]} x {image.shape[0]}, but its annotation file says "
            f"{width} x {height}; correct width and height or replace the image"
        )
    return image
