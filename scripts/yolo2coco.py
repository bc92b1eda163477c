"""A data set in YOLO's format -> COCO files: python scripts/yolo2coco.py data.yaml --out annotations/

data.yaml names the classes (`names`) and, for train, val and test, folders of images or lists of them, under `path`.
The labels of images/a.jpg are in labels/a.txt, a line for each object, in fractions of the image's width and height:
a class number and an outline (x y x y x y ...), or a class number and a box (centre x, centre y, width, height).
Every fault is named with its file and line; then nothing is written, unless --skip-faulty leaves these images out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.errors import UserError
from maskworks.command_line import program
from maskworks.own_data import yolo
from maskworks.own_data.coco_writing import stop_or_skip


@dataclass
class Convert:
    """Turn a data set in YOLO's format into COCO files, one for each split."""

    data: Annotated[Path, tyro.conf.Positional]
    """Its data.yaml."""
    out: Path
    """The folder to write train.json, val.json and test.json to."""
    root: Path | None = None
    """The folder that the data set is in; without it: `path` of data.yaml, which must then be inside of that file's
    folder, or that folder itself."""
    rectangles: bool = False
    """Objects that have only a box get its rectangle for a mask."""
    skip_faulty: bool = False
    """Leave images with faults out, instead of writing nothing."""


def main() -> None:
    convert(tyro.cli(Convert, prog="yolo2coco.py", description=__doc__))


def convert(options: Convert) -> None:
    faults: list[str] = []
    root, splits = yolo.read(options.data, options.root, options.rectangles, faults)
    stop_or_skip(faults, options.skip_faulty)
    for split, writer in splits.items():
        if not writer.images:
            raise UserError(f"{options.data}: no image of {split} can be used; check its folders")
    for split, writer in splits.items():
        writer.write(options.out / f"{split}.json")
        print(f"{options.out / f'{split}.json'}: {writer.summary()}; file_name starts from {root}")


if __name__ == "__main__":
    program.run(main)
