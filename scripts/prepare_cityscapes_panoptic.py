"""Cityscapes as it is published -> COCO panoptic JSON and PNGs: python scripts/prepare_cityscapes_panoptic.py ROOT.

ROOT holds leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_instanceIds.png; beside them this
writes panoptic_SPLIT.json and the folder panoptic_SPLIT, which is where the Cityscapes variants look for them.

- The classes are the 19 that are scored, under Cityscapes' own ids; all other pixels become void.
- A segment's id in the PNG is its number in instanceIds. Things without a number of their own are crowds.
"""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.progress import track

from common.errors import UserError
from common.files import write_text
from maskworks.command_line import program
from upsnet.classes import CITYSCAPES

THINGS = 8  # the first of the classes
INSTANCES = 1000  # numbers from here are class * 1000 + instance
SUFFIX = "_gtFine_instanceIds.png"
Json = dict[str, Any]


@dataclass
class Prepare:
    """Write Cityscapes' annotations in COCO's panoptic format."""

    root: Annotated[Path, tyro.conf.Positional]
    """The folder with leftImg8bit and gtFine."""
    splits: tuple[str, ...] = ("train", "val")
    """Which splits; each gets a JSON file and a folder of PNGs."""


def main() -> None:
    options = tyro.cli(Prepare, prog="prepare_cityscapes_panoptic.py")
    for split in options.splits:
        prepare(options.root, split)


def prepare(root: Path, split: str) -> None:
    """One split; what is written takes its names only when all of it is there."""
    sources = sorted((root / "gtFine" / split).glob(f"*/*{SUFFIX}"))
    if not sources:
        raise UserError(f"{root / 'gtFine' / split}: no */*{SUFFIX} in it; expected the unpacked gtFine of Cityscapes")
    folder, draft = root / f"panoptic_{split}", root / f".panoptic_{split}.unfinished"
    if folder.exists():
        raise UserError(f"{folder}: exists already; remove it to prepare the split again")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    images, annotations = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(lambda pair: convert(root, split, draft, *pair), enumerate(sources, start=1))
        for image, annotation in track(made, f"preparing {split}", len(sources), transient=True):
            images.append(image)
            annotations.append(annotation)
    content = {"images": images, "annotations": annotations, "categories": categories()}
    draft.rename(folder)
    write_text(folder.with_suffix(".json"), json.dumps(content))
    print(f"{len(images)} images: {folder.with_suffix('.json')}, {folder}")


def convert(root: Path, split: str, out: Path, number: int, source: Path) -> tuple[Json, Json]:
    """One image: writes its PNG; its entries among the images and the annotations."""
    name = source.name.removesuffix(SUFFIX)
    photograph = f"{source.parent.name}/{name}_leftImg8bit.png"
    if not (root / "leftImg8bit" / split / photograph).is_file():
        raise UserError(f"{root / 'leftImg8bit' / split / photograph}: no such photograph, but {source} annotates it")
    numbers = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    if numbers is None or numbers.ndim != 2:
        raise UserError(f"{source}: not a picture of one channel; expected Cityscapes' instance numbers")
    picture, segments = segments_of(numbers)
    cv2.imwrite(str(out / f"{name}.png"), picture)
    height, width = numbers.shape
    return (
        {"id": number, "file_name": photograph, "height": height, "width": width},
        {"image_id": number, "file_name": f"{name}.png", "segments_info": segments},
    )


def segments_of(numbers: NDArray[Any]) -> tuple[NDArray[np.uint8], list[Json]]:
    """instanceIds [H, W] -> the PNG's pixels [H, W, 3] (blue, green, red), and its segments."""
    known = {identity: label for label, identity in enumerate(CITYSCAPES.values())}
    picture = np.zeros((*numbers.shape, 3), np.uint8)
    segments = []
    for value in np.unique(numbers).tolist():
        identity = value // INSTANCES if value >= INSTANCES else value
        if identity not in known:
            continue
        mask = numbers == value
        picture[mask] = (value >> 16, value >> 8 & 255, value & 255)
        segments.append(
            {
                "id": value,
                "category_id": identity,
                "area": int(mask.sum()),
                "bbox": list(cv2.boundingRect(mask.view(np.uint8))),
                "iscrowd": int(known[identity] < THINGS and value < INSTANCES),
            }
        )
    return picture, segments


def categories() -> list[Json]:
    pairs = enumerate(CITYSCAPES.items())
    return [{"id": identity, "name": name, "isthing": int(label < THINGS)} for label, (name, identity) in pairs]


if __name__ == "__main__":
    program.run(main)
