"""Checks of a whole data set that take their time: every picture decoded, every mask drawn, every class looked for."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.data.annotation_checks import check_image
from common.data.annotation_files import FARTHEST, NO_MASK, POLYGONS, Annotations, Fault
from common.errors import UserError
from common.files import leads_inside
from common.ops import masks as rle


def check_pictures(
    folder: Path, image_ids: Sequence[int], file_names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> list[Fault]:
    """Decode every image that is there: unreadable and truncated ones, and other sizes than the file says."""
    root = folder.resolve()

    def check(index: int) -> Fault | None:
        path = folder / file_names[index]
        if not leads_inside(path, root) or not path.is_file():
            return None  # check_files names it
        try:
            check_image(path, *sizes[index])
        except UserError as error:
            problem, _, remedy = str(error).partition("; ")
            kind = "wrong size" if "annotation file says" in problem else "bad image"
            return Fault("fatal", kind, f"image {image_ids[index]}", problem, remedy)
        return None

    with ThreadPoolExecutor() as pool:
        return [fault for fault in pool.map(check, range(len(file_names))) if fault]


def check_drawing(a: Annotations) -> list[Fault]:
    """Draw every mask: those that cannot be drawn, turn out to have no pixel, or contradict their area or box."""
    faults = []
    for index in np.flatnonzero((a.kinds != NO_MASK) & (a.image_index >= 0)).tolist():
        where = f"annotation {a.ids[index]}"
        try:
            mask = drawn(msgspec.to_builtins(a.segmentation(index)), *a.sizes[a.image_index[index]].tolist())
        except UserError as error:
            if a.kinds[index] == POLYGONS:  # check_masks names bad RLE
                faults.append(Fault("fatal", "bad polygon", where, str(error), "correct the polygon"))
            continue
        pixels, box = int(rle.area([mask])[0]), rle.boxes([mask])[0]
        if not pixels and a.kinds[index] == POLYGONS:
            faults.append(Fault("noted", "empty mask", where, "its polygons cover no pixel", "remove or correct it"))
        if pixels and area_contradicts(a.areas[index], pixels):
            problem = f"its area is {a.areas[index]:g}, its mask has {pixels} pixels; APs, APm and APl go by the area"
            faults.append(Fault("noted", "wrong area", where, problem, "--fix counts it again"))
        if pixels and box_contradicts(a.boxes[index], box):
            problem = f"its bbox is {a.boxes[index].tolist()}, its mask's {box.tolist()} (x, y, width, height)"
            faults.append(Fault("noted", "wrong box", where, problem, "--fix takes the mask's"))
    return faults


def drawn(segmentation: Any, height: int, width: int) -> rle.Rle:
    """The mask of polygons (of those with corners enough) or an RLE; a UserError where it can't be drawn."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
        return rle.from_polygons(polygons, height, width)
    if problem := rle.check(segmentation, height, width):
        raise UserError(problem)
    return {"size": list(segmentation["size"]), "counts": segmentation["counts"]}


def area_contradicts(area: float, pixels: int) -> bool:
    """Outlines enclose a little more or less than the pixels that they cover: COCO's areas stay well within this."""
    return abs(area - pixels) > 10 and not pixels / 1.5 <= area <= pixels * 1.5


def box_contradicts(box: NDArray[np.float64], tight: NDArray[np.float64]) -> bool:
    """Whether boxes x, y, width, height overlap by less than half, as where corners were taken for extents."""
    overlap = np.minimum(box[:2] + box[2:], tight[:2] + tight[2:]) - np.maximum(box[:2], tight[:2])
    common = overlap.clip(min=0).prod()
    return bool((np.abs(overlap) < FARTHEST).all() and (box[2:] > 0).all()) and bool(
        common < 0.5 * (box[2:].prod() + tight[2:].prod() - common)
    )


def check_classes(a: Annotations) -> list[Fault]:
    """Classes of which there is no example that can be used, and names used twice."""
    counts = np.bincount(a.labels[a.usable & (a.labels >= 0)], minlength=len(a.categories))
    faults = [without_examples(c, "annotation") for c, count in zip(a.categories, counts, strict=True) if not count]
    for name, count in Counter(category.name for category in a.categories).items():
        if count > 1:
            problem = f"{count} categories have this name"
            faults.append(Fault("noted", "duplicate class name", f"category name {name}", problem, "rename one"))
    return faults


def without_examples(category: Any, what: str) -> Fault:
    where = f"category {category.id} ({category.name})"
    return Fault("noted", "class without examples", where, f"no {what} has it", "add some or remove it")
