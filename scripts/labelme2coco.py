"""A folder of labelme files -> one COCO file: python scripts/labelme2coco.py photographs/ --out train.json

Polygons, rectangles, circles and painted masks are read. Shapes of one label and one group_id are one object in
several pieces.
Every fault is named with its file; then nothing is written, unless --skip-faulty leaves these images out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.errors import UserError
from common.files import read_text
from maskworks.command_line import program
from maskworks.own_data import labelme
from maskworks.own_data.coco_writing import stop_or_skip

NO_CLASSES = {"__ignore__", "_background_"}  # lines of labelme's own label files


@dataclass
class Convert:
    """Turn a folder of labelme files into one COCO file."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Where the labelme files are; folders in it are searched too."""
    out: Path
    """The COCO file to write."""
    images: Path | None = None
    """The folder that file_name will start from, and that no image may be outside of; without it: FOLDER."""
    classes: tuple[str, ...] = ()
    """Class names in their order, or one text file with a name on each line; without them: all labels that occur."""
    order: Literal["sorted", "appearance"] = "sorted"
    """The order of classes that --classes does not give."""
    skip_faulty: bool = False
    """Leave images with faults out, instead of writing nothing."""


def main() -> None:
    convert(tyro.cli(Convert, prog="labelme2coco.py", description=__doc__))


def convert(options: Convert) -> None:
    root, classes = options.images or options.folder, listed_classes(options.classes)
    faults: list[str] = []
    writer = labelme.read(options.folder, root, faults, classes=classes, order=options.order, but=options.out)
    stop_or_skip(faults, options.skip_faulty)
    if not writer.images:
        raise UserError(f"{options.folder}: no labelme file in it that can be used; expected *.json beside the images")
    writer.write(options.out)
    print(f"{options.out}: {writer.summary()}; file_name starts from {root}")


def listed_classes(given: Sequence[str]) -> list[str]:
    """Names from the command line or from the file that it names."""
    names = list(given)
    if len(given) == 1 and (given[0].endswith(".txt") or Path(given[0]).is_file()):
        try:
            lines = read_text(Path(given[0])).splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{given[0]}: cannot be read ({error}); expected a class name on each line") from error
        names = [line.strip() for line in lines if line.strip() and line.strip() not in NO_CLASSES]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--classes has {twice[0]!r} twice; name every class once")
    return names


if __name__ == "__main__":
    program.run(main)
