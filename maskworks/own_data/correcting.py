"""Predictions into annotation tools: the pictures with what was found in them, as a folder that --data reads again."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import yaml
from PIL import Image

from common.errors import UserError
from common.files import write_text
from common.ops import masks as rle
from common.run.prediction import Predict, unique_names
from maskworks.own_data.coco_writing import CocoWriter, Json, Mask, Outline, boxed, outlined

TOLERANCE = 0.75  # pixels that a simplified outline may be off: steps along a slanted edge become a line
ALIKE = 0.95  # IoU of an outline's pixels with the mask's; where the simplified one has less, it keeps every corner
MOST = 65_535  # objects of a label image of 16 bits


@dataclass
class PredictToCorrect(Predict):
    """Find the objects in photographs and videos."""

    format: Literal["", "coco", "labelme", "yolo", "cvat", "label-images"] = ""
    """Copy the pictures to OUT/FORMAT too, with what scores --threshold or more, for people to correct; --data reads
    it. cvat: COCO's format as CVAT imports it."""


@dataclass
class Found:
    label: int
    name: str
    score: float
    box: Outline  # [2, 2] two corners
    code: Json | None  # its mask, decoded only while it is looked at; of an object that has a box only: none

    def mask(self) -> Mask:
        assert self.code
        return np.asarray(rle.decode([self.code])[0])


@dataclass
class Labelled:
    source: Path
    name: str  # of its copy
    height: int
    width: int
    objects: list[Found]


def refuse_to_replace(options: PredictToCorrect) -> None:
    """Stop before anything is predicted: what stands there may have been corrected."""
    target = Path(options.out) / options.format
    if options.format and target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target}: has files, perhaps corrected ones, that --format would replace; name another --out")


def to_correct(folder: Path | None, options: PredictToCorrect) -> Path | None:
    """OUT/FORMAT from the predictions in OUT; returns that folder, for the report."""
    if folder is None or not options.format:
        return folder
    target = folder / options.format
    content = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    classes = [entry["name"] for entry in content["categories"]]
    pictures = labelled(content, options.threshold)
    objects = [each for picture in pictures for each in picture.objects]
    if options.format == "label-images" and any(each.code is None for each in objects):
        raise UserError("--format label-images: boxes have no pixels; choose labelme, coco, cvat or yolo")
    place = {"labelme": "", "cvat": "images/default"}.get(options.format, "images")
    for picture in pictures:
        copy = target / place / picture.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture.source, copy)
    if options.format == "labelme":
        for picture in pictures:
            write_text(target / f"{Path(picture.name).stem}.json", json.dumps(labelme_file(picture), indent=1))
    elif options.format == "yolo":
        write_yolo(target, pictures, classes)
    elif options.format == "label-images":
        write_label_images(target, pictures)
    else:
        file = "annotations/instances_default.json" if options.format == "cvat" else "annotations.json"
        write_coco(target / file, pictures, classes)
    count = f"{len(pictures)} pictures, {len(objects)} objects that score at least {options.threshold:g}"
    lost = "; label images have no classes" if options.format == "label-images" and len(classes) > 1 else ""
    print(f"to correct: {target.resolve()} ({count}){lost}")
    return folder


def labelled(content: Json, threshold: float) -> list[Labelled]:
    """The pictures of predictions.json, each with what scores enough."""
    labels = {entry["id"]: at for at, entry in enumerate(content["categories"])}
    sources = [Path(entry["file_name"]) for entry in content["images"]]
    names = [f"{name}{source.suffix}" for name, source in zip(unique_names(sources), sources, strict=True)]
    found: dict[int, list[Found]] = {entry["id"]: [] for entry in content["images"]}
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        box = np.array([(x, y), (x + width, y + height)])
        code = entry.get("segmentation")
        if entry["score"] >= threshold and (rle.area([code])[0] if code else width * height):
            label = labels[entry["category_id"]]
            name = content["categories"][label]["name"]
            found[entry["image_id"]].append(Found(label, name, entry["score"], box, code))
    return [
        Labelled(source, name, entry["height"], entry["width"], found[entry["id"]])
        for source, name, entry in zip(sources, names, content["images"], strict=True)
    ]


# --- outlines


def outlines(mask: Mask) -> list[Outline]:
    """[H, W] -> an outline around each part, its holes joined to it by a line there and back (tools know no holes)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corner = (columns[0], rows[0])
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    for tolerance in (TOLERANCE, 0.0):
        found = traced(part, tolerance)
        drawn = [rle.from_polygons([each.ravel().tolist() for each in found], *part.shape)] if found else []
        if drawn and rle.iou(rle.encode(part[None]), drawn, np.zeros(1, bool))[0, 0] >= ALIKE:
            break
    return [outline + corner for outline in found]


def traced(mask: Mask, tolerance: float) -> list[Outline]:
    """A quarter of a pixel inside of the pixels' borders, so around all their middles."""
    twice = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    borders, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    simple = [cv2.approxPolyDP(border, 2 * tolerance, True) if tolerance else border for border in borders]
    places = [border[:, 0] / 2 + 0.25 for border in simple]
    found = []
    for at, (_, _, _, outside) in enumerate(tree[0]):
        if outside < 0:
            found.append(joined([places[at], *(places[hole] for hole in np.flatnonzero(tree[0][:, 3] == at))]))
    return [outline for outline in found if len(outline) >= 3]


def joined(loops: Sequence[Outline]) -> Outline:
    """One outline of several: from the first's start to each other, around it, and back the same way."""
    first, *others = loops
    there_and_back = [np.concatenate((loop, loop[:1], first[:1])) for loop in others]
    return np.concatenate((first, first[:1], *there_and_back)) if others else first


# --- formats


def labelme_file(picture: Labelled) -> Json:
    """The parts of an object are one group; the score is in the description."""
    shapes: list[Json] = []
    for number, each in enumerate(picture.objects, start=1):
        parts = outlines(each.mask()) if each.code else [each.box]
        shape: Json = {"label": each.name, "group_id": number if len(parts) > 1 else None, "flags": {}}
        shape |= {"shape_type": "polygon" if each.code else "rectangle", "description": f"{each.score:.3f}"}
        shapes += [shape | {"points": part.tolist()} for part in parts]
    size = {"imageHeight": picture.height, "imageWidth": picture.width}
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture.name, "imageData": None} | size


def write_coco(file: Path, pictures: Sequence[Labelled], classes: Sequence[str]) -> None:
    writer = CocoWriter(classes)
    for picture in pictures:
        size = picture.height, picture.width
        entries = [
            outlined(each.label, outlines(each.mask()), *size) if each.code else boxed(each.label, each.box)
            for each in picture.objects
        ]
        writer.add_image(picture.name, *size, entries)
    writer.write(file)


def write_yolo(target: Path, pictures: Sequence[Labelled], classes: Sequence[str]) -> None:
    """A line for each object: the parts of one are joined as holes are, for YOLO has one outline for an object."""
    for picture in pictures:
        size = np.array((picture.width, picture.height))
        lines = []
        for each in picture.objects:
            (x1, y1), (x2, y2) = each.box
            box = np.array([((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)])
            places = joined(outlines(each.mask())) if each.code else box
            lines.append(" ".join([str(each.label), *(f"{value:.7f}" for value in (places / size).ravel())]))
        write_text(target / "labels" / f"{Path(picture.name).stem}.txt", "".join(f"{line}\n" for line in lines))
    description = {"train": "images", "names": dict(enumerate(classes))}
    write_text(target / "data.yaml", yaml.safe_dump(description, sort_keys=False))


def write_label_images(target: Path, pictures: Sequence[Labelled]) -> None:
    """A number for each object, 1 for the surest, which has the pixels that several claim; classes are not kept."""
    (target / "masks").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        numbers = np.zeros((picture.height, picture.width), np.uint16)
        best = sorted(picture.objects, key=lambda each: -each.score)[:MOST]
        for number, each in reversed(list(enumerate(best, start=1))):
            numbers[each.mask()] = number
        Image.fromarray(numbers).save(target / "masks" / f"{Path(picture.name).stem}.png")
