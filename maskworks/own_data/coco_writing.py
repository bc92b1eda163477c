"""A COCO file built up image by image from outlines and boxes; what other formats are turned into."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import write_text
from common.ops import masks as rle
from common.ops.outlines import Mask, Outline

Json = dict[str, Any]


@dataclass
class CocoWriter:
    """Images, annotations and classes; all ids count from 1, a class's in the order of the names."""

    class_names: Sequence[str]
    images: list[Json] = field(default_factory=list)
    annotations: list[Json] = field(default_factory=list)

    def add_image(self, file_name: str, height: int, width: int, objects: Sequence[Json]) -> None:
        """An image and its objects: what outlined(), masked() and boxed() return, with a `label` counted from 0."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for entry in objects:
            own = {"id": len(self.annotations) + 1, "image_id": number, "category_id": entry["label"] + 1, "iscrowd": 0}
            self.annotations.append(own | {key: value for key, value in entry.items() if key != "label"})

    def content(self) -> Json:
        categories = [{"id": number, "name": name} for number, name in enumerate(self.class_names, start=1)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.content(), ensure_ascii=False))

    def summary(self) -> str:
        return f"{len(self.images)} images, {len(self.annotations)} objects of {len(self.class_names)} classes"


def outlined(label: int, outlines: Sequence[Outline], height: int, width: int) -> Json:
    """An object of one or several outlines. The box holds them all, as far as they are in the image."""
    polygons = [outline.round(3).ravel().tolist() for outline in outlines]
    mask = rle.from_polygons(polygons, height, width)
    area = int(rle.area([mask])[0])
    if not area:
        raise UserError("its outline covers no pixel of the image; draw it again or remove it")
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    if (corners < 0).any() or (corners > (width, height)).any():
        box = rle.boxes([mask])[0].tolist()  # what sticks out of the image is no part of it
    else:
        box = _around(corners)
    return {"label": label, "segmentation": polygons, "bbox": box, "area": area}


def masked(label: int, mask: Mask) -> Json:
    """An object that is given by its pixels [H, W]."""
    code = rle.encode(mask[None])
    area = int(rle.area(code)[0])
    if not area:
        raise UserError("its mask covers no pixel of the image; draw it again or remove it")
    return {"label": label, "segmentation": code[0], "bbox": rle.boxes(code)[0].tolist(), "area": area}


def boxed(label: int, box: Outline) -> Json:
    """An object that has a box [2, 2] (two opposite corners) and no mask."""
    x, y, width, height = _around(box)
    if not width * height:
        raise UserError("its box has no extent; draw it again or remove it")
    return {"label": label, "bbox": [x, y, width, height], "area": round(width * height, 3)}


def rectangle(box: Outline) -> Outline:
    """The four corners of a box [2, 2]."""
    (x1, y1), (x2, y2) = box
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


@contextmanager
def noting(faults: list[str], where: object) -> Iterator[None]:
    """What is wrong with one image becomes a line among the faults, and the others are read."""
    try:
        yield
    except UserError as error:
        faults.append(f"{where}: {error}")


def stop_or_skip(
    faults: Sequence[str], skip: bool, remedy: str = "Correct that, or leave these images out: --skip-faulty"
) -> None:
    """Name every fault in a line; go on only if the user wants faulty images to be left out."""
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults and not skip:
        count = "1 fault, named" if len(faults) == 1 else f"{len(faults)} faults, each named"
        raise UserError(f"{count} above; nothing is written. {remedy}")


def _around(corners: Outline) -> list[float]:
    low, high = corners.min(axis=0), corners.max(axis=0)
    return [round(value, 3) for value in (*low.tolist(), *(high - low).tolist())]
