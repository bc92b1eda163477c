"""Prepare PSG (panoptic scene graphs) for training: the competition's files -> the files that refinemask_psg reads.

    python scripts/prepare_psg.py psg_train_val.json --val-test psg_val_test.json \\
        --instances coco/annotations/instances_val2017.json --out datasets/psg

Writes psg_tra.json and psg_val.json (COCO's panoptic format with relations), and with --instances
instances_val2017_coco80.json and psg_instance_val.json (boxes and masks of the validation images).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tyro
from msgspec import Struct

from common.data.annotation_files import read_as
from common.errors import UserError
from common.files import write_text
from common.run.runlog import Bar
from maskworks.command_line import program
from refinemask_psg.psg.files import Image, Predicate, PsgEntry, PsgFile, image_of, panoptic_file, read_psg, read_test

COCO_THINGS = 80


@dataclass
class Prepare:
    """Prepare PSG for training."""

    train_val: Annotated[Path, tyro.conf.Positional]
    """psg_train_val.json, or the full release psg.json."""
    val_test: Path | None = None
    """psg_val_test.json: checked to hold the validation images too."""
    instances: Path | None = None
    """COCO's instances_val2017.json, for box and mask AP."""
    out: Path = Path("datasets/psg")
    """Folder to write to."""
    original_faults: bool = False
    """Make trucks stuff and call them " truck", as the original does."""


def main() -> None:
    prepare(tyro.cli(Prepare, prog="prepare_psg.py", description=__doc__))


def prepare(options: Prepare) -> None:
    """Everything is read and checked before the first file is written."""
    psg = read_psg(options.train_val)
    training, validation = psg.split()
    if options.val_test:
        check_test(options.val_test, psg)
    files: dict[str, Any] = {
        "psg_tra.json": panoptic_file(psg, training, options.original_faults),
        "psg_val.json": panoptic_file(psg, validation, options.original_faults),
    }
    if options.instances:
        files |= instances_of(options.instances, validation)
    options.out.mkdir(parents=True, exist_ok=True)
    with Bar("writing", len(files)) as bar:
        for name, content in files.items():
            write_text(options.out / name, msgspec.json.format(msgspec.json.encode(content), indent=4).decode())
            bar.advance()
    print(f"{len(training)} images to train on, {len(validation)} to validate; written: {options.out.resolve()}")


def check_test(path: Path, psg: PsgFile) -> None:
    """Whether the two files belong together: they share the validation images."""
    known = {entry.image_id for entry in read_test(path)}
    for entry in psg.split()[1]:
        if entry.image_id not in known:
            raise UserError(
                f"{path}: no entry for the validation image {entry.image_id} ({entry.file_name}); "
                "use the psg_val_test.json of the same release"
            )


# --- COCO's instances of PSG's images: box and mask AP ---


class _Object(Struct):
    category_id: int
    image_id: int


class _Instances(Struct):
    """What is needed of COCO's instance file; the rest of its annotations and categories is kept as it is."""

    images: list[Image]
    annotations: list[_Object]
    categories: list[Predicate]


def instances_of(path: Path, entries: Sequence[PsgEntry]) -> dict[str, Any]:
    """COCO's instances with ids 1 to 80 instead of the sparse ones; and those of the entries' images by their PSG ids.

    Of two entries of one image the last has them.
    """
    expected = "COCO's instances_val2017.json; download it again"
    checked, coco = read_as(path, _Instances, expected), read_as(path, dict[str, Any], expected)
    if len(checked.categories) != COCO_THINGS:
        raise UserError(f"{path}: {len(checked.categories)} categories, expected COCO's {COCO_THINGS}")
    new_ids = {category.id: number for number, category in enumerate(checked.categories, start=1)}
    categories = [each | {"id": new_ids[each["id"]]} for each in coco["categories"]]
    known = [each for each in coco["annotations"] if each["category_id"] in new_ids]
    objects = [each | {"category_id": new_ids[each["category_id"]]} for each in known]
    psg_ids = {int(entry.coco_image_id): int(entry.image_id) for entry in entries}
    own = [each | {"image_id": psg_ids[each["image_id"]]} for each in objects if each["image_id"] in psg_ids]
    images, both = [image_of(entry) for entry in entries], {"categories": categories}
    return {
        "instances_val2017_coco80.json": coco | both | {"images": checked.images, "annotations": objects},
        "psg_instance_val.json": {"images": images, "annotations": own} | both,
    }


if __name__ == "__main__":
    program.run(main)
