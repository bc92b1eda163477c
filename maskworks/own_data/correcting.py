"""Predictions into annotation tools: the pictures with what was found in them, as a folder that --data reads again."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from common.errors import UserError
from common.files import write_text
from common.ops import masks as rle
from common.ops.outlines import Mask, joined, outlines
from common.results import Instances
from maskworks.own_data.coco_writing import CocoWriter, Json, boxed, outlined
from maskworks.prediction.command import Predict, unique_names

MOST = 65_535  # objects of a label image of 16 bits


@dataclass
class PredictToCorrect(Predict):
    """Find the objects in photographs and videos."""

    format: Literal["", "coco", "labelme", "yolo", "cvat", "label-images"] = ""
    """Copy the pictures to OUT/FORMAT too, with what scores --threshold or more, for people to correct; --data reads
    it. cvat: COCO's format as CVAT imports it."""


@dataclass
class Labelled:
    source: Path
    name: str  # of its copy
    found: Instances  # what scores enough


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
    pictures = labelled(content, classes, options.threshold)
    if options.format == "label-images" and any(len(each.found) > len(each.found.codes or ()) for each in pictures):
        raise UserError("--format label-images: boxes have no pixels; choose labelme, coco, cvat or yolo")
    place = {"labelme": "", "cvat": "images/default"}.get(options.format, "images")
    for picture in pictures:
        copy = target / place / picture.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture.source, copy)
    if options.format == "labelme":
        for picture in pictures:
            content = picture.found.to_labelme(picture.name)
            write_text(target / f"{Path(picture.name).stem}.json", json.dumps(content, indent=1))
    elif options.format == "yolo":
        write_yolo(target, pictures, classes)
    elif options.format == "label-images":
        write_label_images(target, pictures)
    else:
        file = "annotations/instances_default.json" if options.format == "cvat" else "annotations.json"
        write_coco(target / file, pictures, classes)
    objects = sum(len(each.found) for each in pictures)
    count = f"{len(pictures)} pictures, {objects} objects that score at least {options.threshold:g}"
    lost = "; label images have no classes" if options.format == "label-images" and len(classes) > 1 else ""
    print(f"to correct: {target.resolve()} ({count}){lost}")
    return folder


def labelled(content: Json, classes: Sequence[str], threshold: float) -> list[Labelled]:
    """The pictures of predictions.json, each with what scores enough."""
    labels = {entry["id"]: at for at, entry in enumerate(content["categories"])}
    sources = [Path(entry["file_name"]) for entry in content["images"]]
    names = [f"{name}{source.suffix}" for name, source in zip(unique_names(sources), sources, strict=True)]
    entries: dict[int, list[Json]] = {entry["id"]: [] for entry in content["images"]}
    for entry in content["annotations"]:
        code, (_, _, width, height) = entry.get("segmentation"), entry["bbox"]
        if entry["score"] >= threshold and (rle.area([code])[0] if code else width * height):
            entries[entry["image_id"]].append(entry)
    return [
        Labelled(source, name, as_instances(entries[image["id"]], labels, classes, (image["height"], image["width"])))
        for source, name, image in zip(sources, names, content["images"], strict=True)
    ]


def as_instances(
    entries: Sequence[Json], labels: Mapping[int, int], classes: Sequence[str], size: tuple[int, int]
) -> Instances:
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).reshape(-1, 4)
    codes = [entry["segmentation"] for entry in entries if "segmentation" in entry]
    return Instances(
        scores=torch.tensor([entry["score"] for entry in entries], dtype=torch.float64),
        labels=torch.tensor([labels[entry["category_id"]] for entry in entries], dtype=torch.int64),
        boxes=torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1),
        masks=None,
        size=size,
        class_names=tuple(classes),
        codes=codes or None,
    )


# --- formats


def write_coco(file: Path, pictures: Sequence[Labelled], classes: Sequence[str]) -> None:
    writer = CocoWriter(classes)
    for picture in pictures:
        found = picture.found
        entries = [
            boxed(label, box.reshape(2, 2)) if mask is None else outlined(label, outlines(mask), *found.size)
            for label, box, mask in each_of(found)
        ]
        writer.add_image(picture.name, *found.size, entries)
    writer.write(file)


def write_yolo(target: Path, pictures: Sequence[Labelled], classes: Sequence[str]) -> None:
    """A line for each object: the parts of one are joined as holes are, for YOLO has one outline for an object."""
    for picture in pictures:
        size = np.array(picture.found.size[::-1])
        lines = []
        for label, (x1, y1, x2, y2), mask in each_of(picture.found):
            box = np.array([((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)])
            places = box if mask is None else joined(outlines(mask))
            lines.append(" ".join([str(label), *(f"{value:.7f}" for value in (places / size).ravel())]))
        write_text(target / "labels" / f"{Path(picture.name).stem}.txt", "".join(f"{line}\n" for line in lines))
    description = {"train": "images", "names": dict(enumerate(classes))}
    write_text(target / "data.yaml", yaml.safe_dump(description, sort_keys=False))


def write_label_images(target: Path, pictures: Sequence[Labelled]) -> None:
    """A number for each object, 1 for the surest, which has the pixels that several claim; classes are not kept."""
    (target / "masks").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        numbers = np.zeros(picture.found.size, np.uint16)
        best = picture.found.scores.argsort(descending=True, stable=True)[:MOST].tolist()
        for number, index in reversed(list(enumerate(best, start=1))):
            mask = picture.found.mask(index)
            assert mask is not None
            numbers[mask] = number
        Image.fromarray(numbers).save(target / "masks" / f"{Path(picture.name).stem}.png")


def each_of(found: Instances) -> Iterator[tuple[int, NDArray[np.float64], Mask | None]]:
    """Class, box [4] and mask of one object after the other: masks are decoded while they are looked at."""
    for index, (label, box) in enumerate(zip(found.labels.tolist(), found.boxes.numpy(), strict=True)):
        yield label, box, found.mask(index)
