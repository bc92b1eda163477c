"""Pascal VOC's format, read: Annotations/*.xml with boxes, JPEGImages, and masks where SegmentationObject has them.

In a mask PNG the number n stands for the n-th object of the XML file, 255 for the border between objects.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from common.data.images import image_size
from common.errors import UserError
from common.files import read_bytes, read_text
from maskworks.own_data.coco_writing import CocoWriter, Json, boxed, masked, noting, outlined, rectangle
from maskworks.own_data.label_images import read_numbers

BORDER = 255
SAME_OBJECT = 0.3  # IoU of a mask's box and the XML's, from which both are of one; borders cost thin things a lot


@dataclass
class Labelled:
    """A picture's objects, each a class name and a box [2, 2]."""

    name: str
    height: int
    width: int
    objects: list[tuple[str, NDArray[np.float64]]]


def read(root: Path, rectangles: bool, faults: list[str], notes: list[str]) -> dict[str, CocoWriter]:
    """train and val where ImageSets lists them, otherwise all of it as train; a line is added for each fault."""
    masks = root / "SegmentationObject"
    named = lists(root, "Segmentation" if masks.is_dir() else "Main")
    sources = {path.stem: path for path in sorted((root / "Annotations").glob("*.xml"))}
    if masks.is_dir():  # only some of VOC's pictures have masks, and only these are of use
        drawn = {stem: path for stem, path in sources.items() if (masks / f"{stem}.png").is_file()}
        if len(drawn) < len(sources):
            notes.append(f"{len(sources) - len(drawn)} pictures without masks are left out")
        sources = drawn
    lost = [f"{split}.txt: names {stem}" for split in named for stem in named[split] if stem not in sources]
    faults += [f"{root}, {line}, which has no XML file in Annotations, or no mask; remove the line" for line in lost]
    found: dict[str, tuple[Labelled, list[Json]]] = {}
    labelled: dict[str, Labelled] = {}
    for stem, path in sources.items():
        with noting(faults, path):
            labelled[stem] = describe(path, root)
    classes = sorted({label for one in labelled.values() for label, _ in one.objects})
    for stem, one in labelled.items():
        with noting(faults, sources[stem]):
            mask = masks / f"{stem}.png" if masks.is_dir() else None
            found[stem] = one, objects_of(one, classes, mask, rectangles)
    writers = {split: CocoWriter(classes) for split in named or ("train",)}
    for split, writer in writers.items():
        for one, objects in (found[stem] for stem in named.get(split, list(found)) if stem in found):
            writer.add_image(one.name, one.height, one.width, objects)
    return writers


def lists(root: Path, kind: str) -> dict[str, list[str]]:
    """Names of pictures for train and val, if both lists are there."""
    files = {split: root / "ImageSets" / kind / f"{split}.txt" for split in ("train", "val")}
    if not all(file.is_file() for file in files.values()):
        return {}
    return {split: [line.split()[0] for line in _lines(file) if line.split()] for split, file in files.items()}


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file).splitlines()
    except ValueError as error:
        raise UserError(f"{file}: not a text file ({error}); expected a picture's name on each line") from error


def describe(path: Path, root: Path) -> Labelled:
    """One XML file and its picture's size."""
    text = read_bytes(path)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities can blow up to any size
        raise UserError("has a document type, which VOC's files have not; write it without")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"not XML ({error}); write it again") from error
    stated = (tree.findtext("filename") or "").replace("\\", "/").rpartition("/")[2]
    pictures = root / "JPEGImages"
    names = [name for name in (stated, f"{path.stem}.jpg", f"{path.stem}.png") if name]
    name = next((name for name in names if (pictures / name).is_file()), None)
    if name is None:
        raise UserError(f"{pictures} has no {names[0]}; add the picture or remove this file")
    height, width = image_size(pictures / name)
    size = [tree.findtext(f"size/{side}") for side in ("height", "width")]
    if all(size) and size not in ([str(height), str(width)], ["0", "0"]):
        raise UserError(
            f"annotated at {size[1]} x {size[0]} pixels, but {name} is {width} x {height}; annotate it again"
        )
    objects = [_object(number, entry) for number, entry in enumerate(tree.iter("object"), start=1)]
    return Labelled(name, height, width, objects)


def _object(number: int, entry: ElementTree.Element) -> tuple[str, NDArray[np.float64]]:
    label = (entry.findtext("name") or "").strip()
    try:
        x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise UserError(f"object {number}: its bndbox is not xmin, ymin, xmax, ymax; correct or remove it") from error
    box = np.array(((x1 - 1, y1 - 1), (x2, y2)))  # pixels count from 1, and the last one belongs to the object
    if not label or not np.isfinite(box).all() or (box[1] <= box[0]).any():
        raise UserError(f"object {number}: has no name, or a box without extent; correct or remove it")
    return label, box


def objects_of(one: Labelled, classes: list[str], mask_file: Path | None, rectangles: bool) -> list[Json]:
    limits = (one.width, one.height)
    boxes = [(classes.index(label), box.clip(0, limits)) for label, box in one.objects]
    if mask_file is None:
        if rectangles:
            return [outlined(label, [rectangle(box)], one.height, one.width) for label, box in boxes]
        return [boxed(label, box) for label, box in boxes]
    numbers = read_numbers(mask_file, one.height, one.width)
    there = sorted(set(np.unique(numbers).tolist()) - {0, BORDER})
    if there != list(range(1, len(boxes) + 1)):
        raise UserError(f"has {len(boxes)} objects, but {mask_file} the numbers {there[:9]}; draw the masks again")
    found = [masked(label, numbers == number) for number, (label, _) in enumerate(boxes, start=1)]
    for number, (entry, (_, box)) in enumerate(zip(found, boxes, strict=True), start=1):
        corner, extent = np.array(entry["bbox"]).reshape(2, 2)
        shared = (np.minimum(corner + extent, box[1]) - np.maximum(corner, box[0])).clip(0).prod()
        if shared / (extent.prod() + (box[1] - box[0]).prod() - shared) < SAME_OBJECT:
            raise UserError(f"object {number}: its box is not where {mask_file} has its mask; one of them is another's")
    return found
